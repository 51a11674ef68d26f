#pragma once

#include <string>
#include <vector>

namespace yard {

/// A subcommand of this program for several ranks on this machine.
struct RankedCommand {
  int ranks = 1;
  std::vector<std::string> arguments;  // "train", "--config", ...
  std::string out, err;                // files that what it writes goes to
};

/// Throws InputError where mpirun or srun started this process, so that `command` would start mpirun inside of it. Only one of the ranks
/// gets the error; for the others it returns false, and they have nothing to do.
bool may_start_mpirun(const std::string& command);

/// Runs it to its end, under mpirun where there are several ranks, without what an outer mpirun, Slurm or the like left in the
/// environment; returns its exit code. Ranks are not bound to cores, and may be more than there are.
/// Throws Error where there is no mpirun.
int run_ranks(const RankedCommand&);

/// The sentence with which such a command failed, without the program's name; from what it wrote to `err`.
std::string sentence_of_failure(const std::string& err);

}  // namespace yard
