#pragma once

#include <string>
#include <vector>

namespace yard {

std::string host_name();
/// The cores that this process may run on, "0-3,8".
std::string allowed_cores();
/// How many these are.
int allowed_core_count();
/// Threads of a rank when run.threads is 0: the cores it may run on, shared with the ranks of its machine that may run on the same ones.
/// `cores_of_local_ranks` holds allowed_cores() of every rank of the machine, this one included.
int default_threads(const std::vector<std::string>& cores_of_local_ranks);
/// "2026-03-01 12:34:56 +0100", and "20260301-123456" for names of folders; local time.
std::string date_and_time();
std::string compact_date_and_time();

/// What the environment block tells beside what this process can find out itself.
struct RunFacts {
  std::string mpi;                 // what MPI_Get_library_version says
  std::string processor;           // of rank 0
  std::string device;              // that rank 0 computes on: "the processor" or a GPU's name
  std::string precision;           // "bf16 (auto: the processor has AMX-BF16)"
  std::string layout;              // "4 ranks: expert 2 x data 2"
  int threads = 1;                 // of a rank
  std::vector<std::string> hosts;  // of every rank, in the order of ranks
  std::vector<std::string> cores;  // allowed_cores() of every rank
  std::string command;             // as it was typed
};

/// The block that log.txt begins with: version and commit, compiler, MPI, processor, precision, threads, binding, hosts and date; one
/// "name  value" a line.
std::string environment_block(const RunFacts&);

}  // namespace yard
