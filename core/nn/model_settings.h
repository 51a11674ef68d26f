#pragma once

#include <cmath>
#include <optional>
#include <variant>
#include <vector>

#include "core/nn/module.h"
#include "core/ops/activation.h"
#include "core/ops/attention.h"

namespace yard {

/// What backward recomputes instead of keeping: nothing, each layer's feed-forward (dense_after excepted), or whole layers.
enum class Recompute : std::uint8_t { none, moe, full };

/// RMSNorm of queries and keys before rotary positions: none, or over all heads of a row together (OLMoE).
enum class QkNorm : std::uint8_t { none, width };

/// Grouped-query attention with rotary positions.
struct AttentionSettings {
  Index heads = 1, kv_heads = 1, head_width = 64;
  float scale = 0.125F;  // multiplies the scores
  float cap = 0;         // cap * tanh(score / cap), after the scale; 0: none
  float rope_base = 1e4F;
  QkNorm qk_norm = QkNorm::none;
  float norm_epsilon = 1e-5F;  // of qk_norm

  ops::Heads shape() const noexcept { return {heads, kv_heads, head_width}; }
  Index query_width() const noexcept { return heads * head_width; }
  Index key_width() const noexcept { return kv_heads * head_width; }
};

/// One feed-forward: a dense one, one expert, or the shared experts computed as one.
struct FeedForwardSettings {
  Index hidden = 0;  // intermediate size
  bool gated = true;
  ops::Activation activation = ops::Activation::silu;
  float dropout = 0;  // dropout probability of the hidden row
};

/// A Mixture-of-Experts feed-forward. The router reads its own settings.
struct MoeSettings {
  Index experts = 1, top_k = 1;
  FeedForwardSettings expert;
  std::optional<FeedForwardSettings> shared;
  bool shared_gate = false;  // whether the shared experts' output is multiplied by sigmoid(w . x)
};

/// One transformer layer: attention, a dense or a Mixture-of-Experts feed-forward, and optionally a dense one after it.
struct LayerSettings {
  AttentionSettings attention;
  std::variant<FeedForwardSettings, MoeSettings> feed_forward;
  std::optional<FeedForwardSettings> dense_after;  // with its own norm and residual
  float norm_epsilon = 1e-5F;
  bool post_norms = false;  // RMSNorm on each branch's output before the residual sum
  float dropout = 0;        // dropout probability of each branch's output

  const MoeSettings* moe() const noexcept { return std::get_if<MoeSettings>(&feed_forward); }
};

/// Everything that determines a model's parameters and function (semantics, section 1), resolved: no value stands for a default.
struct ModelSettings {
  Index vocabulary = 0, width = 0;  // width: hidden size
  Index positions = 0;              // longest context, in tokens
  std::vector<LayerSettings> layers;
  float embedding_scale = 1, output_scale = 1;
  float norm_epsilon = 1e-5F;  // of the final norm
  bool tied_output = false;
  bool f32_residual = false;
  Recompute recompute = Recompute::none;
  float deviation = 0.02F;     // init std
  bool scale_residual = true;  // init std of matrices that write to the residual stream: deviation / sqrt(2 layers)

  Index depth() const noexcept { return static_cast<Index>(layers.size()); }
  const LayerSettings& layer(Index number) const { return layers.at(static_cast<std::size_t>(number)); }
  Index moe_layers() const noexcept {
    Index count = 0;
    for (const LayerSettings& each : layers) count += each.moe() != nullptr ? 1 : 0;
    return count;
  }
  /// Initialisation of matrices that write to the residual stream (semantics, section 4).
  Init residual_init() const noexcept {
    return Init::normal(scale_residual ? deviation / std::sqrt(2.0F * static_cast<float>(depth())) : deviation);
  }
};

/// A module's position in its model, and the initialisation of its matrices.
struct ModulePlace {
  Index layer = 0;  // from 0
  Index width = 0;  // hidden size
  Init init;
  Init residual_init;  // of matrices that write to the residual stream

  ModulePlace() = default;
  ModulePlace(const ModelSettings& model, Index number)
      : layer(number), width(model.width), init(Init::normal(model.deviation)), residual_init(model.residual_init()) {}
};

}  // namespace yard
