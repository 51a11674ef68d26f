#pragma once

#include <string>
#include <vector>

#include "launch/runtime.h"
#include "launch/stop_request.h"

namespace yard {

/// What `switchyard train` was asked for.
struct TrainOptions {
  std::string config, run_dir, resume = "auto", probe;
  std::vector<std::string> settings;
  Index time_steps = 0;
  std::string command;  // line, as log.txt tells it
  /// Whether steps are all that is wanted: no run directory, no validation, no checkpoint.
  bool only_steps() const { return time_steps > 0 || !probe.empty(); }
};

/// A run from its configuration to its last checkpoint, or to the one at which it was asked to stop. Collective.
void run_training(RankRuntime&, const TrainOptions&, StopRequest&);

}  // namespace yard
