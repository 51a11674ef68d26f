#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/nn/attention.h"
#include "core/nn/experts.h"
#include "core/nn/kv_cache.h"
#include "core/nn/model_settings.h"
#include "core/nn/parameters.h"

namespace yard {

/// A branch of a block: x + post_norm(inner(norm(x))), with dropout before the sum.
class Residual final : public Module {
 public:
  struct Settings {
    std::string norm_name, post_norm_name;  // no post norm when empty
    Index width = 0;
    float epsilon = 1e-5F, dropout = 0;
    bool f32_residual = false;
    DType compute = DType::f32;
    std::uint64_t key = 0;  // of dropout: which branch of which layer
  };
  Residual(Settings, std::unique_ptr<Module> inner);
  Tensor forward(Context&, const Tensor& x, Tape&) override;
  Tensor backward(Context&, const Tensor& dy, Tape&) override;
  void visit(const std::function<void(Parameter&)>&) override;
  void visit_state(const std::function<void(State&)>&) override;
  void visit_costs(const CostVisitor&) const override;
  void after_step(Context&, bool skipped) override;

 private:
  struct Saved {
    Tensor x, rstd, branch, post_rstd;
  };
  std::uint64_t noise_key(const Context&) const;
  Settings settings_;
  Parameter norm_, post_norm_;
  std::unique_ptr<Module> inner_;
};

/// Modules one after the other.
class Sequence final : public Module {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Module>> parts) : parts_(std::move(parts)) {}
  Tensor forward(Context&, const Tensor& x, Tape&) override;
  Tensor backward(Context&, const Tensor& dy, Tape&) override;
  void visit(const std::function<void(Parameter&)>&) override;
  void visit_state(const std::function<void(State&)>&) override;
  void visit_costs(const CostVisitor&) const override;
  void after_step(Context&, bool skipped) override;

 private:
  std::vector<std::unique_ptr<Module>> parts_;
};

/// Keeps only its input on the tape and runs the inner forward again inside backward.
class Recomputed final : public Module {
 public:
  /// `input`: the memory of one token's input row.
  Recomputed(std::unique_ptr<Module> inner, SavedBytes input) : inner_(std::move(inner)), input_(input) {}
  Tensor forward(Context&, const Tensor& x, Tape&) override;
  Tensor backward(Context&, const Tensor& dy, Tape&) override;
  void visit(const std::function<void(Parameter&)>&) override;
  void visit_state(const std::function<void(State&)>&) override;
  bool f32_output() const noexcept override { return inner_->f32_output(); }
  void visit_costs(const CostVisitor&) const override;
  void after_step(Context&, bool skipped) override;

 private:
  std::unique_ptr<Module> inner_;
  SavedBytes input_;
};

/// A decoder-only transformer: embedding, pre-norm blocks, final norm, output layer. It knows no ranks: what stands in a MoE layer is
/// given. Parameter groups: 0 the embedding, 1 to L the blocks, L + 1 final norm and output (a tied output belongs to group 0).
class Transformer {
 public:
  /// Makes the feed-forward module of a MoE layer.
  using MakeMoe = std::function<std::unique_ptr<Module>(Index layer)>;
  Transformer(ModelSettings, DType compute, const MakeMoe& make_moe);

  const ModelSettings& settings() const noexcept { return settings_; }
  DType compute() const noexcept { return compute_; }
  Index groups() const noexcept { return settings_.depth() + 2; }

  /// Cross-entropy of every row in nats, zero where the target is masked.                                   (N) f32
  /// In training, also forms the gradient of scale * sum(nats) and leaves it for backward.
  Tensor nats(Context&, float scale, Tape&);
  /// Adds to every gradient; calls `finished` with each group whose gradients are complete, the last layer first.
  void backward(Context&, Tape&, const std::function<void(Index group)>& finished);
  /// Logits of the rows, or of those listed.                                                               (M, V) f32
  Tensor logits(Context&, const Tensor& rows = {});

  /// A cache for generation with this model.
  KeyValueCache make_cache(Stream&, Index sequences, Index capacity) const;

  void visit(const std::function<void(Index group, Parameter&)>&);
  void visit_state(const std::function<void(State&)>&);
  ModelCosts costs() const;
  void after_step(Context&, bool skipped);

 private:
  Tensor trunk(Context&, Tape&);
  Linear& output();
  struct SavedHead {
    Tensor x, rstd, dnormed;
  };

  ModelSettings settings_;
  DType compute_, residual_;
  Linear embedding_;  // as an output layer only when tied
  std::vector<std::unique_ptr<Module>> blocks_;
  Parameter final_norm_;
  std::unique_ptr<Linear> output_;  // empty when tied
};

/// The names that a layer's parameters have in checkpoints: those of Mixtral where Mixtral has them.
namespace names {
std::string layer(Index layer);  // "model.layers.3."
FeedForwardNames expert(Index layer, Index expert);
FeedForwardNames dense(const std::string& prefix);  // "model.layers.3.mlp."
}  // namespace names

/// The bank of a dense layer, of the shared experts or of a dense_after feed-forward.
std::unique_ptr<Experts> make_dense_bank(const FeedForwardSettings&, const ModulePlace&, const std::string& prefix);
/// This rank's experts of a MoE layer: [first, first + count).
std::unique_ptr<Experts> make_experts(const MoeSettings&, const ModulePlace&, Index first, Index count);
/// The feed-forward of one layer, dense or Mixture-of-Experts, recomputed in backward if the model's settings say so.
std::unique_ptr<Module> make_feed_forward(const ModelSettings&, Index layer, const Transformer::MakeMoe&);

}  // namespace yard
