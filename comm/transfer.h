#pragma once

#include <optional>

#include "core/profiler.h"
#include "core/work.h"

namespace yard {

/// A collective that a backend has posted.
class Transfer : public Work::State {
 public:
  /// Completion time on the device, if this rank has observed completion; an upper bound if polling observed it. Never blocks.
  virtual std::optional<Clock::time_point> completed() = 0;
};

}  // namespace yard
