#pragma once

#include <optional>
#include <string>

#include "core/handle.h"
#include "core/io/file.h"
#include "core/profiler.h"

namespace yard {

/// Asks for an early end: SIGTERM and SIGUSR1, as schedulers send them before they take a machine away, and a time limit. Made before any
/// other thread, since threads inherit that the signals wait here; the run looks at the end of each step.
class StopRequest {
 public:
  /// `exit_after`: seconds from now on, or nothing. Throws Error.
  explicit StopRequest(std::optional<double> exit_after);
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  /// The number of a signal that has come, kTimeIsUp, or 0. Does not wait; a signal is told again at each later call.
  int pending();
  static constexpr int kTimeIsUp = 1000;
  /// "SIGUSR1 came" and the like.
  static std::string reason(int pending);

 private:
  FileDescriptor signals_;
  std::optional<double> exit_after_;
  Clock::time_point start_ = Clock::now();
  int came_ = 0;
};

/// Seconds of "90", "90s", "55m", "1.5h" or "2d"; throws InputError for anything else.
double parse_duration(const std::string& text, const std::string& option);

}  // namespace yard
