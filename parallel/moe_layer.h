#pragma once

#include <memory>

#include "core/nn/experts.h"
#include "core/nn/routing/router.h"
#include "parallel/exchange/exchange.h"

namespace yard {

/// A Mixture-of-Experts feed-forward whose experts are sharded over the ranks of a group: route, dispatch, experts, combine.
class MoeLayer final : public Module {
 public:
  struct Parts {
    std::unique_ptr<Router> router;
    std::unique_ptr<Exchange> exchange;
    std::unique_ptr<Experts> experts;
    std::unique_ptr<Module> shared;  // shared experts, or empty
    Index moe_layer = 0;             // number among MoE layers, from 0
    Index expert_count = 0;          // over all ranks
    bool keyed = false;              // whether experts need each row's global number (dropout inside the expert)
  };
  explicit MoeLayer(Parts parts) : parts_(std::move(parts)) {}

  Tensor forward(Context&, const Tensor& x, Tape&) override;
  Tensor backward(Context&, const Tensor& dy, Tape&) override;
  void visit(const std::function<void(Parameter&)>&) override;
  void visit_state(const std::function<void(State&)>&) override;
  bool f32_output() const noexcept override { return true; }
  void visit_costs(const CostVisitor&) const override;
  void after_step(Context&, bool skipped) override;

 private:
  struct Saved {
    Routing routing;
    std::shared_ptr<ExchangePlan> plan;
  };
  std::shared_ptr<ExchangePlan> plan_of(Context&, const Routing&, Index tokens, Tape&);
  Tensor local_output(Context&, const Tensor& x, const Routing&, Tape&);
  Parts parts_;
};

}  // namespace yard
