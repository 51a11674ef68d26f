#include "core/nn/attention.h"

#include <cmath>

#include "core/nn/kv_cache.h"

namespace yard {
namespace {

YARD_PHASE kForward{"attention.forward"};
YARD_PHASE kBackward{"attention.backward"};

Parameter fused_qkv(const ModelShape& model, const std::string& prefix) {
  const Index q = model.heads * model.head_width;
  const Index kv = model.kv_heads * model.head_width;
  Parameter fused = Parameter::whole(prefix + "qkv_proj.weight", {q + 2 * kv, model.width}, Init::normal(model.deviation));
  fused.slices = {{prefix + "q_proj.weight", 0, q}, {prefix + "k_proj.weight", q, kv}, {prefix + "v_proj.weight", q + kv, kv}};
  return fused;
}

}  // namespace

Init residual_init(const ModelShape& model) {
  return Init::normal(model.scale_residual ? model.deviation / std::sqrt(2.0F * static_cast<float>(model.layers)) : model.deviation);
}

Attention::Attention(const ModelShape& model, Index layer, const std::string& prefix)
    : layer_(layer),
      heads_{model.heads, model.kv_heads, model.head_width},
      scale_(model.attention_scale),
      cap_(model.attention_cap),
      base_(model.rope_base),
      qkv_(fused_qkv(model, prefix)),
      out_(Parameter::whole(prefix + "o_proj.weight", {model.width, model.heads * model.head_width}, residual_init(model))) {}

ops::AttentionSettings Attention::settings(const Context& context) const { return {heads_, context.tokens.length, scale_, cap_}; }

Tensor Attention::forward(Context& context, const Tensor& x, Tape& tape) {
  const Span span(context.profiler, kForward);
  const Tokens& tokens = context.tokens;
  const Tensor qkv = qkv_.forward(context, x);
  ops::rotary(context.stream, qkv, tokens.positions, heads_, base_, 1);
  if (tokens.cache != nullptr) {
    const KeyValueCache& cache = *tokens.cache;
    ops::cache_append(context.stream, qkv, cache.before(), heads_, tokens.length, cache.keys(layer_), cache.values(layer_));
    return out_.forward(
        context, ops::attention_cached(context.stream, qkv, cache.keys(layer_), cache.values(layer_), cache.before(), settings(context)));
  }
  ops::AttentionOut attended = ops::attention(context.stream, qkv, tokens.positions, settings(context));
  Tensor y = out_.forward(context, attended.out);
  if (context.training()) tape.push(Saved{x, qkv, std::move(attended)});
  return y;
}

Tensor Attention::backward(Context& context, const Tensor& dy, Tape& tape) {
  const Span span(context.profiler, kBackward);
  const auto saved = tape.pop<Saved>();
  const Tensor dout = out_.backward(context, dy, saved.attended.out);
  const Tensor dqkv = ops::attention_backward(context.stream, dout, saved.qkv, context.tokens.positions, saved.attended, settings(context));
  ops::rotary(context.stream, dqkv, context.tokens.positions, heads_, base_, -1);
  return qkv_.backward(context, dqkv, saved.x);
}

void Attention::visit(const std::function<void(Parameter&)>& see) {
  see(qkv_.parameter());
  see(out_.parameter());
}

}  // namespace yard
