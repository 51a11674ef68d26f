#pragma once

#include <cstdint>
#include <string>

#include "launch/append_file.h"
#include "proto/metrics.pb.h"

namespace yard {

/// One line of metrics.jsonl, with its end of line. A number that is not finite becomes the string "NaN" or "Infinity", as proto3 has it.
std::string metrics_line(const StepMetrics&);

/// metrics.jsonl of a run directory: one JSON object a step, each on the disk's side before `append` returns.
class MetricsLog {
 public:
  explicit MetricsLog(const std::string& run_directory) : file_(run_directory + "/metrics.jsonl") {}
  /// Throws Error that names the file when it cannot be written.
  void append(const StepMetrics& metrics) { file_.write(metrics_line(metrics)); }

 private:
  AppendFile file_;
};

/// Takes the lines of steps after `last_step` out of metrics.jsonl, and a line that a crash cut short: what a run that resumes from that
/// step writes anew. Without such a file nothing happens.
void forget_metrics_after(const std::string& run_directory, std::int64_t last_step);

}  // namespace yard
