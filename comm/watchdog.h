#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/event_log.h"

namespace yard {

struct WatchdogOptions {
  int rank = 0;
  int ranks = 1;
  double seconds = 0;      // limit from posting a collective to its completion; 0: no watchdog
  std::string folder;      // shared by all ranks; empty: a folder of this job in the temporary folder, until set_folder names the run's
  std::string job;         // equal on all ranks, different for every job; empty: the id from mpirun or Slurm
  double grace = 2;        // seconds between this rank's report and the verdict, in which the other ranks write theirs
  double last_resort = 3;  // seconds that `abort` may take
  std::function<void()> abort;                         // aborts the job; called from a thread of the watchdog
  std::function<void()> exit;                          // called if abort has not ended the process; the default is _exit(1)
  std::function<void(const std::string& text)> write;  // the default writes to stderr
};

/// A thread that watches how long this rank's collectives take. It reads the event log and never calls MPI. When a collective has been
/// posted but is not complete after the limit, every rank with such a collective writes watchdog-rank-R.json (its last collectives) to the
/// folder; then the lowest of these ranks says in one sentence, the last line on the screen, which collective hangs and which ranks have
/// not entered it, and aborts the job. A rank that computes, or is stopped, has posted nothing that hangs, which is how it is found.
class Watchdog {
 public:
  Watchdog(const EventLog& log, WatchdogOptions options);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  /// From now on reports are written to this folder: the run directory.
  void set_folder(const std::string& folder);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace yard
