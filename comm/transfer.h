#pragma once

#include <optional>

#include "core/profiler.h"
#include "core/work.h"

namespace yard {

/// A collective that a backend carries out.
class Transfer : public Work::State {
 public:
  /// When the operation completed on its device, as far as this rank knows; an upper bound where polling found it. Never blocks.
  virtual std::optional<Clock::time_point> completed() = 0;
};

}  // namespace yard
