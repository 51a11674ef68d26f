#pragma once

#include <memory>

#include "core/nn/routing/choice.h"

namespace yard {

/// A router whose choices are forced to a known load, for performance experiments: experts in round-robin order, or expert 0 as the first
/// choice with probability `skew` and the rest round-robin. Weights and gradients are the inner router's, at the forced choices.
class ForcedRouting final : public Router, private ChoiceOverride {
 public:
  ForcedRouting(std::unique_ptr<Router> inner, float skew) : inner_(std::move(inner)), skew_(skew) {}

  Routing forward(Context&, const Tensor& x, Tape&) override;
  Tensor local(Context& context, const Tensor& x, const Routing& routing) override { return inner_->local(context, x, routing); }
  Tensor backward(Context& context, const Tensor& dweight, const Tensor& dy, Tape& tape) override {
    return inner_->backward(context, dweight, dy, tape);
  }
  void visit(const std::function<void(Parameter&)>& visitor) override { inner_->visit(visitor); }
  void visit_state(const std::function<void(State&)>& visitor) override { inner_->visit_state(visitor); }
  void after_step(Context& context, bool skipped) override { inner_->after_step(context, skipped); }
  bool sees_later_tokens() const noexcept override { return inner_->sees_later_tokens(); }
  RouterCost cost() const override { return inner_->cost(); }

 private:
  Tensor choose(Context&, Index experts, Index k) const override;
  std::unique_ptr<Router> inner_;
  float skew_;
};

}  // namespace yard
