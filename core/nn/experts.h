#pragma once

#include <memory>
#include <span>
#include <string>

#include "core/nn/linear.h"
#include "core/nn/model_settings.h"

namespace yard {

/// Rows for some of this rank's experts, grouped by expert.
struct ExpertRows {
  Tensor rows;             // (R, C)
  Tensor weight;           // (R) f32: what the expert's output is multiplied by; empty for 1
  Tensor key;              // (R) i64: names the row's token everywhere, for dropout inside the expert; empty when there is none
  Index first_expert = 0;  // the first of the local experts, and how many rows for it and each one after it
  std::span<const Index> rows_per_expert;
};
struct ExpertsGradient {
  Tensor rows;    // (R, C)
  Tensor weight;  // (R) f32; empty when the rows had none
};

/// How a bank of experts is used, for its costs.
struct ExpertsUse {
  ModelPart part = ModelPart::feed_forward;
  Index experts = 1;     // over all ranks
  double rows = 1;       // per token, over all experts
  double row_bytes = 0;  // of the weight and the key that are sent with a row
};

/// A bank of experts on rows grouped by expert. A dense feed-forward is a bank of one; low-rank and nested banks are others.
class Experts {
 public:
  virtual ~Experts() = default;
  /// weight * expert(row). The weight multiplies the hidden row before the down projection, and d(weight) = <W_down^T dy, h>, so that
  /// outputs are not saved.
  virtual Tensor forward(Context&, const ExpertRows&, Tape&) = 0;
  virtual ExpertsGradient backward(Context&, const Tensor& dy, Tape&) = 0;
  virtual void visit(const std::function<void(Parameter&)>&) = 0;
  virtual void visit_costs(const ExpertsUse&, const CostVisitor&) const = 0;
  virtual void visit_state(const std::function<void(State&)>&) {}
  /// Called after the optimizer's step; `skipped`: the guard dropped this update.
  virtual void after_step(Context&, bool skipped) { (void)skipped; }
};

/// The matrices of one feed-forward by name.
struct FeedForwardNames {
  std::string gate, up, down;  // an ungated bank has no gate: `up` is its first matrix
};

/// Experts of two matmuls: z = [gate; up] x, h = weight * act(gate) * up, y = down h.
class FeedForwardExperts final : public Experts {
 public:
  /// One entry of `names` for each expert of this rank; `first_expert` is the global number of the first (the key of dropout).
  FeedForwardExperts(const FeedForwardSettings&, const ModulePlace&, ParamKind, const std::vector<FeedForwardNames>& names,
                     Index first_expert = 0);
  Tensor forward(Context&, const ExpertRows&, Tape&) override;
  ExpertsGradient backward(Context&, const Tensor& dy, Tape&) override;
  void visit(const std::function<void(Parameter&)>&) override;
  void visit_costs(const ExpertsUse&, const CostVisitor&) const override;

 private:
  struct Saved {
    Tensor rows, weight, key, z, h;
    std::vector<Index> counts;  // of all local experts
  };
  Tensor drop(Context&, const Tensor& h, const Tensor& key, std::span<const Index> counts) const;
  FeedForwardSettings settings_;
  Index layer_, experts_, first_expert_;
  Linear in_, down_;
};

/// A bank of one as a layer of its own.
class DenseFeedForward final : public Module {
 public:
  explicit DenseFeedForward(std::unique_ptr<Experts> bank) : bank_(std::move(bank)) {}
  Tensor forward(Context&, const Tensor& x, Tape&) override;
  Tensor backward(Context&, const Tensor& dy, Tape&) override;
  void visit(const std::function<void(Parameter&)>&) override;
  void visit_costs(const CostVisitor&) const override;
  void visit_state(const std::function<void(State&)>& visitor) override { bank_->visit_state(visitor); }
  void after_step(Context& context, bool skipped) override { bank_->after_step(context, skipped); }

 private:
  std::unique_ptr<Experts> bank_;
};

/// A dense feed-forward that every token takes beside its routed experts, with weight 1, or sigmoid(w . x) (Qwen2-MoE).
class SharedExperts final : public Module {
 public:
  /// `gate_name` is empty for weight 1.
  SharedExperts(std::unique_ptr<Experts> bank, const std::string& gate_name, const ModulePlace&);
  Tensor forward(Context&, const Tensor& x, Tape&) override;
  Tensor backward(Context&, const Tensor& dy, Tape&) override;
  void visit(const std::function<void(Parameter&)>&) override;
  void visit_costs(const CostVisitor&) const override;
  void visit_state(const std::function<void(State&)>& visitor) override { bank_->visit_state(visitor); }
  void after_step(Context& context, bool skipped) override { bank_->after_step(context, skipped); }

 private:
  struct Saved {
    Tensor x, gate;
  };
  std::unique_ptr<Experts> bank_;
  std::unique_ptr<Linear> gate_;
};

/// The numbers that name this rank's rows everywhere: global sequence * length + position in it.       (N) i64
Tensor row_keys(Context&);

}  // namespace yard
