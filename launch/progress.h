#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "launch/run_log.h"

namespace yard {

/// "1 h 02 min", "4 min 05 s", "12 s".
std::string duration_in_words(double seconds);
/// "950 tokens/s", "12.3 k tokens/s", "4.56 M tokens/s".
std::string token_rate(double tokens_per_second);

/// Where training stands: on a terminal one line that keeps itself current, elsewhere a plain line every `log_every` steps. The plain lines
/// are in log.txt either way.
class Progress {
 public:
  /// `done`: steps that an earlier part of the run has done already.
  Progress(RunLog& log, std::int64_t steps, std::int64_t done, std::int64_t log_every);
  /// After each step; `step` counts from 1.
  void step(std::int64_t step, double loss, double tokens_per_second, double step_seconds);
  /// After the last: the line stays, and the cursor stands below it.
  void finish();

  /// Seconds that the steps after `step` will take, judged by the latest ones; negative as long as nothing is known.
  double seconds_left(std::int64_t step) const;

 private:
  std::vector<std::string> parts(std::int64_t step, double loss, double tokens_per_second) const;
  RunLog& log_;
  std::int64_t steps_, first_, log_every_;
  double step_seconds_ = -1;  // smoothed
  std::chrono::steady_clock::time_point shown_{};
};

}  // namespace yard
