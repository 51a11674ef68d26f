#pragma once

#include "core/nn/linear.h"
#include "core/nn/model_shape.h"
#include "core/ops/attention.h"

namespace yard {

/// The start of matrices that write into the residual stream (semantics, section 4).
Init residual_init(const ModelShape&);

/// Grouped-query causal attention with rotary positions; queries, keys and values come from one fused product.
class Attention final : public Module {
 public:
  /// `prefix` is "model.layers.3.self_attn.": logical names are those of Hugging Face checkpoints.
  Attention(const ModelShape&, Index layer, const std::string& prefix);
  Tensor forward(Context&, const Tensor& x, Tape&) override;
  Tensor backward(Context&, const Tensor& dy, Tape&) override;
  void visit(const std::function<void(Parameter&)>&) override;

 private:
  struct Saved {
    Tensor x, qkv;
    ops::AttentionOut attended;
  };
  ops::AttentionSettings settings(const Context&) const;
  Index layer_;
  ops::Heads heads_;
  float scale_, cap_, base_;
  Linear qkv_, out_;
};

}  // namespace yard
