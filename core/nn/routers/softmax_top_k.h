#pragma once

#include "core/nn/linear.h"
#include "core/nn/routers/router.h"
#include "core/ops/routing.h"

namespace yard {

/// How choices are forced, for experiments that need a known load.
enum class ForcedRouting : std::uint8_t { natural, balanced, skewed };

struct SoftmaxTopKSettings {
  bool normalize = true;       // divide the weights of a token by their sum (Mixtral); top-1 must not: its weight would be constant
  float scale = 1;             // of the weights
  double capacity_factor = 0;  // capacity = ceil(factor * K * tokens of a group / E), at least 4; 0 is dropless
  double evaluation_capacity = 0;
  Index group_sequences = 1;  // sequences of a routing group
  ops::DropPolicy drop = ops::DropPolicy::position;
  float jitter = 0;  // the router's copy of x times U(1 - jitter, 1 + jitter) in training (Switch)
  ForcedRouting forced = ForcedRouting::natural;
  float skew = 0;
  LossSettings losses;
};

/// Softmax over all experts in f32, then the k best: Mixtral, Grok-1 and OLMoE; with k = 1, no normalisation and a capacity, Switch
/// (Fedus, Zoph and Shazeer 2021). Load-balancing loss and z-loss enter in backward.
class SoftmaxTopK final : public Router {
 public:
  SoftmaxTopK(const RouterPlace&, const SoftmaxTopKSettings&);
  Routing forward(Context&, const Tensor& x, Tape&, RouterReport&) override;
  Tensor backward(Context&, const Tensor& dweight, const Tensor& dself, Tape&) override;
  void visit(const std::function<void(Parameter&)>&) override;
  bool sees_later_tokens() const noexcept override { return settings_.capacity_factor > 0 && settings_.drop != ops::DropPolicy::position; }
  RouterCost cost() const override;

 private:
  struct Saved {
    Tensor x;  // f32, jittered
    Tensor p, log_sum_exp, choice, weight, counts;
    DType dtype;
  };
  std::uint64_t noise_key(const Context&, std::string_view what) const;
  Tensor within_capacity(Context&, const Tensor& choice, const Tensor& weight, RouterReport&) const;
  Tensor balance_coefficients(Context&, const Tensor& counts_by_sequence) const;

  RouterPlace place_;
  SoftmaxTopKSettings settings_;
  Linear gate_;
};

}  // namespace yard
