#pragma once

#include <string>

namespace yard {

/// Makes the folder of a run and checks that files can be written in it. `wanted` is --run-dir, or empty for
/// runs/<name of the configuration's file>-<time>, where a number is added when that is taken. Returns its path.
/// Throws InputError that names the folder and what is wrong with it. For rank 0; the others are told the path.
std::string make_run_directory(const std::string& wanted, const std::string& config_path);

/// Moves what an earlier run wrote in the folder, its checkpoints too, into `path`/earlier-N, so that a run that starts anew mixes nothing
/// and nothing is lost. Returns that folder, or nothing where there was no earlier run. Throws Error.
std::string set_earlier_run_aside(const std::string& path);

}  // namespace yard
