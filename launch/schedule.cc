#include "launch/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace yard {

double learning_rate(const RunConfig& config, long step) {
  const auto& optimizer = config.optimizer();
  const double peak = optimizer.peak_rate();
  const double last = optimizer.final_rate();
  const auto at = static_cast<double>(step);
  const auto warmup = static_cast<double>(optimizer.warmup_steps());
  const auto steps = static_cast<double>(config.run().steps());
  if (at < warmup) return peak * (at + 1) / warmup;
  const double way = std::min(1.0, (at - warmup) / std::max(1.0, steps - warmup));
  switch (optimizer.schedule()) {
    case RunConfig::Schedule::constant:
      return peak;
    case RunConfig::Schedule::linear:
      return peak + (last - peak) * way;
    case RunConfig::Schedule::wsd: {
      const auto decay = static_cast<double>(optimizer.decay_steps());
      const double into = at - (steps - decay);
      return into <= 0 ? peak : peak + (last - peak) * std::min(1.0, into / std::max(1.0, decay));
    }
    default:
      return last + (peak - last) * (1 + std::cos(std::numbers::pi * way)) / 2;
  }
}

}  // namespace yard
