#include "core/nn/attention.h"

#include "core/nn/kv_cache.h"
#include "core/ops/elementwise.h"
#include "core/ops/norm.h"

namespace yard {
namespace {

YARD_PHASE kForward{"attention.forward"};
YARD_PHASE kBackward{"attention.backward"};

Parameter fused_qkv(const AttentionSettings& settings, const ModulePlace& place, const std::string& prefix) {
  const Index q = settings.query_width();
  const Index kv = settings.key_width();
  Parameter fused = Parameter::whole(prefix + "qkv_proj.weight", {q + 2 * kv, place.width}, place.init);
  fused.slices = {{prefix + "q_proj.weight", 0, q}, {prefix + "k_proj.weight", q, kv}, {prefix + "v_proj.weight", q + kv, kv}};
  return fused;
}

}  // namespace

Attention::Attention(const AttentionSettings& settings, const ModulePlace& place, const std::string& prefix)
    : settings_(settings),
      layer_(place.layer),
      heads_(settings.shape()),
      qkv_(fused_qkv(settings, place, prefix)),
      out_(Parameter::whole(prefix + "o_proj.weight", {place.width, settings.query_width()}, place.residual_init)),
      q_norm_(Parameter::vector(prefix + "q_norm.weight", normed() ? settings.query_width() : 0, Init::ones())),
      k_norm_(Parameter::vector(prefix + "k_norm.weight", normed() ? settings.key_width() : 0, Init::ones())) {}

ops::AttentionSettings Attention::scores(const Context& context) const {
  return {heads_, context.tokens.length, settings_.scale, settings_.cap};
}

/// Normalises these columns of qkv in place.
Attention::Normed Attention::norm_columns(Context& context, const Tensor& qkv, Index first, const Parameter& weight) const {
  if (!normed()) return {};
  const Tensor x = ops::columns(context.stream, qkv, first, weight.shape[0]);
  const auto out = ops::rms_norm(context.stream, x, weight.value, settings_.norm_epsilon, x.dtype());
  ops::set_columns(context.stream, out.y, qkv, first);
  return {x, out.rstd};
}

void Attention::norm_columns_backward(Context& context, const Tensor& dqkv, Index first, const Parameter& weight,
                                      const Normed& saved) const {
  if (!normed()) return;
  const Tensor dy = ops::columns(context.stream, dqkv, first, weight.shape[0]);
  ops::set_columns(context.stream, ops::rms_norm_backward(context.stream, dy, saved.x, weight.value, saved.rstd, weight.grad), dqkv, first);
}

Tensor Attention::forward(Context& context, const Tensor& x, Tape& tape) {
  const Span span(context.profiler, kForward);
  const Tokens& tokens = context.tokens;
  const Tensor qkv = qkv_.forward(context, x);
  Normed q = norm_columns(context, qkv, 0, q_norm_);
  Normed k = norm_columns(context, qkv, settings_.query_width(), k_norm_);
  ops::rotary(context.stream, qkv, tokens.positions, heads_, settings_.rope_base, 1);
  if (tokens.cache != nullptr) {
    const KeyValueCache& cache = *tokens.cache;
    ops::cache_append(context.stream, qkv, cache.before(), heads_, tokens.length, cache.keys(layer_), cache.values(layer_));
    return out_.forward(
        context, ops::attention_cached(context.stream, qkv, cache.keys(layer_), cache.values(layer_), cache.before(), scores(context)));
  }
  ops::AttentionOut attended = ops::attention(context.stream, qkv, tokens.positions, scores(context));
  Tensor y = out_.forward(context, attended.out);
  if (context.training()) tape.push(Saved{x, qkv, std::move(attended), std::move(q), std::move(k)});
  return y;
}

Tensor Attention::backward(Context& context, const Tensor& dy, Tape& tape) {
  const Span span(context.profiler, kBackward);
  const auto saved = tape.pop<Saved>();
  const Tensor dout = out_.backward(context, dy, saved.attended.out);
  const Tensor dqkv = ops::attention_backward(context.stream, dout, saved.qkv, context.tokens.positions, saved.attended, scores(context));
  ops::rotary(context.stream, dqkv, context.tokens.positions, heads_, settings_.rope_base, -1);
  norm_columns_backward(context, dqkv, 0, q_norm_, saved.q);
  norm_columns_backward(context, dqkv, settings_.query_width(), k_norm_, saved.k);
  return qkv_.backward(context, dqkv, saved.x);
}

void Attention::visit(const std::function<void(Parameter&)>& see) {
  see(qkv_.parameter());
  see(out_.parameter());
  if (!normed()) return;
  see(q_norm_);
  see(k_norm_);
}

void Attention::visit_costs(const CostVisitor& visitor) const {
  Cost cost;
  cost.part = ModelPart::attention;
  const Index norms = q_norm_.shape.elements() + k_norm_.shape.elements();
  cost.parameters = qkv_.parameter().shape.elements() + out_.parameter().shape.elements() + norms;
  cost.active = static_cast<double>(cost.parameters);
  cost.matmuls = {qkv_.matmul("q, k, v"), out_.matmul("out")};
  cost.scores = {heads_.heads, heads_.width};
  // x, qkv and the output, queries and keys before their norms; the log-sum-exp of each head, and each norm's rstd.
  cost.saved.values = static_cast<double>(qkv_.parameter().shape[1] + heads_.columns() + settings_.query_width() + norms);
  cost.saved.fixed = 4 * static_cast<double>(heads_.heads + (normed() ? 2 : 0));
  visitor(cost);
}

std::unique_ptr<Module> make_attention(const AttentionSettings& settings, const ModulePlace& place, const std::string& prefix) {
  return std::make_unique<Attention>(settings, place, prefix);
}

}  // namespace yard
