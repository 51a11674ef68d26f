#include "launch/guard.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

namespace yard {

std::string Guard::judge(double loss, double norm) {
  std::string reason;
  if (!std::isfinite(loss)) {
    reason = "the loss is not a finite number";
  } else if (!std::isfinite(norm)) {
    reason = "the gradient norm is not a finite number";
  } else if (settings_.spike_sigma > 0 && recent_.size() >= kLeast) {
    const auto count = static_cast<double>(recent_.size());
    const double mean = std::accumulate(recent_.begin(), recent_.end(), 0.0) / count;
    double squares = 0;
    for (const double each : recent_) squares += (each - mean) * (each - mean);
    const double deviation = std::sqrt(squares / count);
    if (norm > mean + settings_.spike_sigma * deviation) {
      reason = fmt::format("the gradient norm {:.4g} is more than {:g} standard deviations ({:.2g}) above the mean of the last {}, {:.4g}",
                           norm, settings_.spike_sigma, deviation, recent_.size(), mean);
    }
  }
  if (!reason.empty()) {
    ++in_a_row_;
    return reason;
  }
  in_a_row_ = 0;
  recent_.push_back(norm);
  if (recent_.size() > kWindow) recent_.pop_front();
  return {};
}

}  // namespace yard
