#pragma once

#include <limits>
#include <memory>

#include "comm/communicator.h"

namespace yard {

/// Limits of one MPI call: counts are ints, and internal buffers of MPI libraries are known to overflow. Larger operations take several
/// calls. Must be equal on all ranks.
struct MpiLimits {
  Index reduce_elements = Index{1} << 28;             // elements in one reduction
  Index move_rows = std::numeric_limits<int>::max();  // rows in one message
  Index move_bytes = Index{1} << 30;                  // bytes in one message, which has at least one row
};

/// Initialises and finalises MPI. The thread that constructs it must make every MPI call.
class MpiRuntime {
 public:
  using Limits = MpiLimits;
  /// Initialises MPI. The log must outlive every communicator.
  MpiRuntime(int& argc, char**& argv, EventLog& log, Limits limits = {});
  /// Finalises MPI, except during stack unwinding: other ranks may still be in a collective, and the handler aborts the job. Communicators
  /// must be destroyed first.
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  /// A communicator of all ranks of the job. Collective.
  std::unique_ptr<Communicator> world(const std::string& name = "world");
  std::unique_ptr<Communicator> world(Limits limits, const std::string& name = "world");
  /// Aborts the job with exit code `code`.
  [[noreturn]] void abort(int code);
  /// Whether mpirun or srun started this process; otherwise MPI need not be initialised.
  static bool launched();
  /// This process's rank from the launcher's environment, known before MPI is initialised; 0 without a launcher.
  static int launched_rank();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Prints "rank R: sentence" as one line on stderr and aborts the job with exit code 2 for an InputError, 1 for any other error.
[[noreturn]] void report_and_abort(MpiRuntime& runtime, int rank, const std::exception& error);

}  // namespace yard
