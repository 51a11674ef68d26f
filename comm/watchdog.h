#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/event_log.h"

namespace yard {

struct WatchdogOptions {
  int rank = 0;
  int ranks = 1;
  double seconds = 0;           // limit from posting a collective to its completion; 0: no watchdog
  std::string folder;           // shared by all ranks; empty: a folder of this job under the temporary directory, until set_folder
  std::string job;              // equal on all ranks, different for every job; empty: the id from mpirun or Slurm
  double grace = 2;             // seconds between this rank's report and the final message, in which the other ranks report
  double last_resort = 3;       // seconds that `abort` may take
  std::function<void()> abort;  // aborts the job; called from a watchdog thread
  std::function<void()> exit;   // called if abort did not end the process; default: _exit(1)
  std::function<void(const std::string& text)> write;  // default: writes to stderr
};

/// A thread that detects collectives that hang. It reads the event log and never calls MPI. When a collective is still pending after the
/// limit, every rank with a pending collective writes watchdog-rank-R.json (its last collectives) to the folder. The lowest rank past the
/// limit then prints one sentence, the last line on the screen, that names the collective and the ranks that have not entered it, and
/// aborts the job. A rank that is computing or suspended has not posted the collective, and is therefore named as missing.
class Watchdog {
 public:
  Watchdog(const EventLog& log, WatchdogOptions options);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  /// Sets the folder of the reports from now on: the run directory.
  void set_folder(const std::string& folder);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace yard
