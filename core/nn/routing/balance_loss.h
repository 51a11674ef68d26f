#pragma once

#include "core/nn/routing/router.h"

namespace yard {

/// The load-balancing loss over probabilities p that a router has for every expert (numerics, section 5.2; semantics, section 7), reported
/// as the loss "balance". Enters in backward, when the counts of all ranks are known.
class BalanceLoss {
 public:
  /// `choices`: per token.
  BalanceLoss(const RouterPlace&, Index choices, RouterReport&);
  /// In forward: adds what the loss counts to the routing totals. That is the top-k of scores without bias and group limits, before a
  /// capacity drops any, or the forced choices.                                         counts: (N / length, E) i64, of each sequence
  void forward(Context&, const Tensor& counts) const;
  /// Reports the loss at coefficient 1 and returns what each expert's probability is worth in the gradient: a row for every sequence, or
  /// one row for all; empty for nothing.                             p: (N, E) f32  counts: as in forward
  Tensor backward(Context&, const Tensor& p, const Tensor& counts) const;

 private:
  Tensor coefficients(Context&, const Tensor& counts) const;
  LossSettings losses_;
  Index moe_layer_, moe_layers_, experts_, choices_;
  Reported loss_;
};

}  // namespace yard
