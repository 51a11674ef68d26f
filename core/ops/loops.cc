#include "core/ops/loops.h"

namespace yard::ops {

void check_range(const Tensor& values, std::int32_t low, Index high, const char* what) {
  const std::int32_t* v = values.data<std::int32_t>();
  const Index count = values.elements();
  // Above `low` and wrapped around below it: one comparison tells both ends.
  const auto origin = static_cast<std::uint32_t>(low);
  const auto farthest = lane_max(count, 0U, [=](Index i) { return static_cast<std::uint32_t>(v[i]) - origin; });
  if (count == 0 || Index{farthest} < high - low) return;
  const auto* wrong = std::find_if(v, v + count, [&](std::int32_t value) { return value < low || value >= high; });
  fail(what, " ", wrong - v, " is ", *wrong, ", outside of [", low, ", ", high, ")");
}

}  // namespace yard::ops
