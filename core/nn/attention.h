#pragma once

#include <memory>

#include "core/nn/linear.h"
#include "core/nn/model_settings.h"
#include "core/ops/attention.h"

namespace yard {

/// Grouped-query causal attention with rotary positions; queries, keys and values come from one fused matmul.
class Attention final : public Module {
 public:
  /// `prefix` is "model.layers.3.self_attn.": logical names are those of Hugging Face checkpoints.
  Attention(const AttentionSettings&, const ModulePlace&, const std::string& prefix);
  Tensor forward(Context&, const Tensor& x, Tape&) override;
  Tensor backward(Context&, const Tensor& dy, Tape&) override;
  void visit(const std::function<void(Parameter&)>&) override;
  void visit_costs(const CostVisitor&) const override;

 private:
  struct Saved {
    Tensor x, qkv;
    ops::AttentionOut attended;
  };
  ops::AttentionSettings scores(const Context&) const;
  AttentionSettings settings_;
  Index layer_;
  ops::Heads heads_;
  Linear qkv_, out_;
};

/// The attention of one layer.
std::unique_ptr<Module> make_attention(const AttentionSettings&, const ModulePlace&, const std::string& prefix);

}  // namespace yard
