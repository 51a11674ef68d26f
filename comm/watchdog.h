#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/flight_recorder.h"

namespace yard {

struct WatchdogOptions {
  int rank = 0;
  int ranks = 1;
  double seconds = 0;           // of waiting in one collective; 0: no watchdog
  std::string folder;           // common to all ranks; empty: one of this job below the temporary folder, until set_folder names the run's
  std::string job;              // equal on all ranks, other than an earlier job's; empty: what mpirun or Slurm calls it
  double grace = 2;             // seconds between this rank's file and the verdict, so that the others can write theirs
  double last_resort = 3;       // seconds that `abort` may take
  std::function<void()> abort;  // ends the job; called from a thread of the watchdog
  std::function<void()> exit;   // when abort has not; the default ends this process at once with 1
  std::function<void(const std::string& text)> write;  // the default writes to stderr
};

/// A thread that watches how long this rank waits in a collective and never takes part in one. Past the deadline every waiting rank writes
/// watchdog-rank-R.json (its last collectives) to the folder; then the lowest of them says in one sentence, the last line on the screen,
/// which collective hangs and which ranks have not entered it, and ends the job. A rank that computes or is stopped writes nothing, which
/// is how it is found.
class Watchdog {
 public:
  Watchdog(const FlightRecorder& recorder, WatchdogOptions options);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  /// From now on the files go here: the run directory.
  void set_folder(const std::string& folder);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace yard
