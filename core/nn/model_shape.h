#pragma once

#include "core/ops/activation.h"
#include "core/tensor/tensor.h"

namespace yard {

/// What backward computes again instead of keeping: nothing, the feed-forward layers, or whole blocks.
enum class Recompute : std::uint8_t { none, moe, full };

/// Everything that decides a model's parameters and function (semantics, section 1), resolved: no field has a value that stands for
/// another.
struct ModelShape {
  Index vocabulary = 0, width = 0, layers = 0;
  Index heads = 1, kv_heads = 1, head_width = 64;
  Index positions = 0;                       // longest context
  Index experts = 1, top_k = 1, hidden = 0;  // hidden: width of one expert; experts = 1: every layer dense of that width
  bool gated = true;
  ops::Activation activation = ops::Activation::silu;
  Index dense_hidden = 0;  // width of the layers that are not MoE
  Index dense_after = 0;   // a dense feed-forward after each MoE block; 0 for none
  Index first_dense_layers = 0, moe_every = 1;
  Index shared_hidden = 0;  // total width of the shared experts, computed as one; 0 for none
  bool shared_gate = false;
  float attention_scale = 0.125F, attention_cap = 0;
  bool post_norms = false;
  float embedding_scale = 1, output_scale = 1;
  float rope_base = 1e6F, norm_epsilon = 1e-5F;
  bool tied_output = false;
  float dropout = 0, expert_dropout = 0;
  bool f32_residual = false;
  Recompute recompute = Recompute::none;
  float deviation = 0.02F;     // of initial values
  bool scale_residual = true;  // matrices that write into the residual stream start with deviation / sqrt(2 layers)

  /// Whether layer l, from 0, routes to experts.
  bool is_moe(Index layer) const noexcept { return experts > 1 && layer >= first_dense_layers && (layer + 1) % moe_every == 0; }
  Index moe_layers() const noexcept {
    Index count = 0;
    for (Index layer = 0; layer < layers; ++layer) count += is_moe(layer) ? 1 : 0;
    return count;
  }
  /// Width of the dense feed-forward of a layer that is not MoE.
  Index dense_width() const noexcept { return experts > 1 ? dense_hidden : hidden; }
};

}  // namespace yard
