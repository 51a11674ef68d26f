#pragma once

#include <memory>

#include "core/nn/linear.h"
#include "core/nn/model_settings.h"
#include "core/ops/attention.h"

namespace yard {

/// Grouped-query causal attention with rotary positions, optionally with RMSNorm on queries and keys before them; queries, keys and values
/// come from one fused matmul.
class Attention final : public Module {
 public:
  /// `prefix` is "model.layers.3.self_attn.": logical names are those of Hugging Face checkpoints.
  Attention(const AttentionSettings&, const ModulePlace&, const std::string& prefix);
  Tensor forward(Context&, const Tensor& x, Tape&) override;
  Tensor backward(Context&, const Tensor& dy, Tape&) override;
  void visit(const std::function<void(Parameter&)>&) override;
  void visit_costs(const CostVisitor&) const override;

 private:
  /// Queries or keys before their norm, and 1 / root mean square of each row; empty without a norm.
  struct Normed {
    Tensor x, rstd;
  };
  struct Saved {
    Tensor x, qkv;
    ops::AttentionOut attended;
    Normed q, k;
  };
  bool normed() const noexcept { return settings_.qk_norm != QkNorm::none; }
  ops::AttentionSettings scores(const Context&) const;
  Normed norm_columns(Context&, const Tensor& qkv, Index first, const Parameter& weight) const;
  void norm_columns_backward(Context&, const Tensor& dqkv, Index first, const Parameter& weight, const Normed&) const;
  AttentionSettings settings_;
  Index layer_;
  ops::Heads heads_;
  Linear qkv_, out_;
  Parameter q_norm_, k_norm_;  // no values if there is no norm
};

/// The attention of one layer.
std::unique_ptr<Module> make_attention(const AttentionSettings&, const ModulePlace&, const std::string& prefix);

}  // namespace yard
