#pragma once

#include "core/nn/routing/router.h"

namespace yard {

/// Replaces what routers choose, for experiments and replays. Its choices depend on rows' numbers, so that a repeated pass makes the same.
class ChoiceOverride {
 public:
  virtual ~ChoiceOverride() = default;
  virtual Tensor choose(Context&, Index experts, Index k) const = 0;  // (N, K) i32
};

/// Choices as a layer acts on them.
struct Choices {
  Tensor expert;  // (N, K) i32; -1 for padding
  Tensor counts;  // (N / length, experts) i64: of each sequence
};
/// Every router passes its choices through this one function, before it takes weights from them: applies the context's override, masks
/// padding, counts, and in training adds the counts to the routing totals. Changes `expert`, which nothing else may hold.
Choices accept_choices(Context&, const RouterPlace&, Tensor expert);
/// Masks padding in `expert` and counts it by sequence.                              expert: (N, K) i32  result: (N / length, experts) i64
Tensor count_choices(Context&, const RouterPlace&, const Tensor& expert);

}  // namespace yard
