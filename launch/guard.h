#pragma once

#include <deque>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"

namespace yard {

/// Decides which updates are dropped: those whose loss or gradient norm is not finite, and, where a limit is set, those whose norm stands
/// out from the last ones. Its decisions depend on numbers that are equal on all ranks only.
class Guard {
 public:
  struct Settings {
    double spike_sigma = 0;  // standard deviations above the mean of the last norms; 0 is off
    Index max_skips = 0;     // in a row
  };
  static constexpr std::size_t kWindow = 128;  // norms that are looked back on
  static constexpr std::size_t kLeast = 16;    // norms without which nothing stands out

  /// Goes on from what an earlier one knew.
  Guard(Settings settings, const std::vector<double>& recent, Index in_a_row = 0)
      : settings_(settings), recent_(recent.begin(), recent.end()), in_a_row_(in_a_row) {}

  /// Why the update of this step must be dropped; empty when it may be done.
  std::string judge(double loss, double norm);
  /// Whether one more was dropped in a row than may be.
  bool exhausted() const noexcept { return in_a_row_ > settings_.max_skips; }
  Index in_a_row() const noexcept { return in_a_row_; }
  const Settings& settings() const noexcept { return settings_; }
  /// The norms of the updates done, oldest first: what the next ones are compared with.
  std::vector<double> recent() const { return {recent_.begin(), recent_.end()}; }

 private:
  Settings settings_;
  std::deque<double> recent_;
  Index in_a_row_ = 0;
};

}  // namespace yard
