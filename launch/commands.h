#pragma once

namespace yard {

/// One function a subcommand, each in its own file. argv[0] is the subcommand's name. Returns the exit code: 0 success, 2 what was given is
/// wrong, 1 a failed run; what is thrown ends in main.
int train_command(int argc, const char* const* argv);
int eval_command(int argc, const char* const* argv);
int generate_command(int argc, const char* const* argv);
int bench_command(int argc, const char* const* argv);
int verify_layout_command(int argc, const char* const* argv);

}  // namespace yard
