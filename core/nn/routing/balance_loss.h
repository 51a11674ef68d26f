#pragma once

#include "core/nn/routing/router.h"

namespace yard {

/// The load-balancing loss over a router's probabilities p of all experts (numerics, section 5.2; semantics, section 7), reported as the
/// loss "balance". Added in backward, when the counts of all ranks are known.
class BalanceLoss {
 public:
  /// `choices`: choices per token.
  BalanceLoss(const RouterPlace&, Index choices, RouterReport&);
  /// Adds what the loss counts to the routing totals: the top-k of scores without bias and group limits, before a capacity drops any, or
  /// the forced choices.                                                                 counts: (N / length, E) i64, per sequence
  void forward(Context&, const Tensor& counts) const;
  /// Reports the loss at coefficient 1 and returns the gradient coefficients of the probabilities, f32: one row per sequence, (N / length,
  /// E), or one row for all, (1, E); empty if losses.balance is 0.           p: (N, E) f32  counts: those of forward
  Tensor backward(Context&, const Tensor& p, const Tensor& counts) const;

 private:
  Tensor coefficients(Context&, const Tensor& counts) const;
  LossSettings losses_;
  Index moe_layer_, moe_layers_, experts_, choices_;
  Reported loss_;
};

}  // namespace yard
