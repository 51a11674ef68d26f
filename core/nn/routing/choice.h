#pragma once

#include "core/nn/routing/router.h"

namespace yard {

/// Replaces routers' choices, for experiments and replays. Its choices are keyed by row number, so that a recomputed pass repeats them.
class ChoiceOverride {
 public:
  virtual ~ChoiceOverride() = default;
  virtual Tensor choose(Context&, Index experts, Index k) const = 0;  // (N, K) i32
};

/// The final choices of a layer.
struct Choices {
  Tensor expert;  // (N, K) i32; -1 for padding
  Tensor counts;  // (N / length, experts) i64: choices per sequence and expert
};
/// Every router passes its choices through this function before it computes their weights. It applies the context's override, masks
/// padding, counts choices, and in training adds the counts to the routing totals. Modifies `expert`, (N, K) i32, which must have no other
/// owner.
Choices accept_choices(Context&, const RouterPlace&, Tensor expert);
/// Masks padding in `expert` and counts it by sequence.                              expert: (N, K) i32  result: (N / length, experts) i64
Tensor count_choices(Context&, const RouterPlace&, const Tensor& expert);

}  // namespace yard
