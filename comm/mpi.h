#pragma once

#include <limits>
#include <memory>

#include "comm/communicator.h"

namespace yard {

/// The most that goes into one call of MPI, whose counts are ints and whose internal buffers have overflowed before. What is larger goes in
/// several. Equal on all ranks.
struct MpiLimits {
  Index reduce_elements = Index{1} << 28;             // elements in one reduction
  Index move_rows = std::numeric_limits<int>::max();  // rows in one message
  Index move_bytes = Index{1} << 30;                  // bytes in one message, though at least one row
};

/// MPI, from its start to its end in this process. The thread that makes it makes every call.
class MpiRuntime {
 public:
  using Limits = MpiLimits;
  /// Starts MPI. The recorder must outlive every communicator.
  MpiRuntime(int& argc, char**& argv, FlightRecorder& recorder, Limits limits = {});
  /// Ends MPI, unless an exception unwinds: then others are still in a collective, and whoever catches it aborts. Communicators go first.
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  /// All ranks of the job; a collective call.
  std::unique_ptr<Communicator> world();
  std::unique_ptr<Communicator> world(Limits limits);
  /// Ends every process of the job.
  [[noreturn]] void abort(int code);
  /// Whether mpirun or srun started this process; one that was started by hand need not start MPI.
  static bool launched();
  /// This process's rank as its starter told it, known without MPI; 0 for one that was started by hand.
  static int launched_rank();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Prints "rank R: sentence" as one line on stderr and ends the whole job with 2 for an InputError and 1 for any other.
[[noreturn]] void report_and_abort(MpiRuntime& runtime, int rank, const std::exception& error);

}  // namespace yard
