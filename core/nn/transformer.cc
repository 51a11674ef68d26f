#include "core/nn/transformer.h"

#include "core/ops/cross_entropy.h"
#include "core/ops/elementwise.h"
#include "core/ops/embedding.h"
#include "core/ops/norm.h"
#include "core/ops/permute.h"
#include "core/random.h"

namespace yard {
namespace {

YARD_PHASE kEmbeddingForward{"embedding.forward"};
YARD_PHASE kEmbeddingBackward{"embedding.backward"};
YARD_PHASE kCrossEntropy{"cross_entropy"};

}  // namespace

namespace names {

std::string layer(Index layer) { return "model.layers." + std::to_string(layer) + "."; }

FeedForwardNames expert(Index of_layer, Index expert) {
  const std::string prefix = layer(of_layer) + "block_sparse_moe.experts." + std::to_string(expert) + ".";
  return {prefix + "w1.weight", prefix + "w3.weight", prefix + "w2.weight"};
}

FeedForwardNames dense(const std::string& prefix) {
  return {prefix + "gate_proj.weight", prefix + "up_proj.weight", prefix + "down_proj.weight"};
}

}  // namespace names

namespace {

FeedForwardShape bank_shape(const ModelShape& model, Index layer, Index hidden) {
  FeedForwardShape shape;
  shape.width = model.width;
  shape.hidden = hidden;
  shape.gated = model.gated;
  shape.activation = model.activation;
  shape.deviation = model.deviation;
  shape.residual = residual_init(model);
  shape.layer = layer;
  return shape;
}

Parameter embedding_table(const ModelShape& model) {
  Parameter table = Parameter::whole("model.embed_tokens.weight", {model.vocabulary, model.width}, Init::normal(model.deviation));
  table.rate = RateClass::embedding;
  return table;
}

std::unique_ptr<Module> make_block(const ModelShape& model, DType compute, Index layer, const Transformer::MakeMoe& make_moe) {
  const std::string prefix = names::layer(layer);
  const auto branch = [&](const std::string& norm, const std::string& post_norm, Index number, std::unique_ptr<Module> inner) {
    Residual::Settings settings;
    settings.norm_name = prefix + norm;
    settings.post_norm_name = model.post_norms ? prefix + post_norm : "";
    settings.width = model.width;
    settings.epsilon = model.norm_epsilon;
    settings.dropout = model.dropout;
    settings.f32_residual = model.f32_residual;
    settings.compute = compute;
    settings.key = key_of(static_cast<std::uint64_t>(layer), static_cast<std::uint64_t>(number));
    return std::make_unique<Residual>(std::move(settings), std::move(inner));
  };
  std::vector<std::unique_ptr<Module>> parts;
  parts.push_back(branch("input_layernorm.weight", "attention_output_norm.weight", 0,
                         std::make_unique<Attention>(model, layer, prefix + "self_attn.")));
  std::unique_ptr<Module> feed_forward;
  if (model.is_moe(layer)) {
    feed_forward = make_moe(layer);
  } else {
    feed_forward = std::make_unique<DenseFeedForward>(make_dense_bank(model, layer, model.dense_width(), prefix + "mlp."));
  }
  if (model.recompute == Recompute::moe) feed_forward = std::make_unique<Recomputed>(std::move(feed_forward));
  parts.push_back(branch("post_attention_layernorm.weight", "feed_forward_output_norm.weight", 1, std::move(feed_forward)));
  if (model.is_moe(layer) && model.dense_after > 0) {
    parts.push_back(branch("dense_after_layernorm.weight", "dense_after_output_norm.weight", 2,
                           std::make_unique<DenseFeedForward>(make_dense_bank(model, layer, model.dense_after, prefix + "dense_after."))));
  }
  std::unique_ptr<Module> block = std::make_unique<Sequence>(std::move(parts));
  if (model.recompute == Recompute::full) block = std::make_unique<Recomputed>(std::move(block));
  return block;
}

}  // namespace

std::unique_ptr<Experts> make_dense_bank(const ModelShape& model, Index layer, Index hidden, const std::string& prefix) {
  return std::make_unique<FeedForwardExperts>(bank_shape(model, layer, hidden), std::vector{names::dense(prefix)});
}

std::unique_ptr<Experts> make_experts(const ModelShape& model, Index layer, Index first, Index count) {
  FeedForwardShape shape = bank_shape(model, layer, model.hidden);
  shape.kind = ParamKind::expert;
  shape.dropout = model.expert_dropout;
  std::vector<FeedForwardNames> local;
  for (Index e = first; e < first + count; ++e) local.push_back(names::expert(layer, e));
  return std::make_unique<FeedForwardExperts>(shape, local, first);
}

Transformer::Transformer(ModelShape shape, DType compute, const MakeMoe& make_moe)
    : shape_(shape),
      compute_(compute),
      residual_(shape.f32_residual ? DType::f32 : compute),
      embedding_(embedding_table(shape)),
      final_norm_(Parameter::vector("model.norm.weight", shape.width, Init::ones())) {
  for (Index layer = 0; layer < shape_.layers; ++layer) blocks_.push_back(make_block(shape_, compute_, layer, make_moe));
  if (!shape_.tied_output) {
    output_ =
        std::make_unique<Linear>(Parameter::whole("lm_head.weight", {shape_.vocabulary, shape_.width}, Init::normal(shape_.deviation)));
  }
}

Tensor Transformer::trunk(Context& context, Tape& tape) {
  Tensor x;
  {
    const Span span(context.profiler, kEmbeddingForward);
    x = ops::embedding(context.stream, context.tokens.ids, embedding_.parameter().value, shape_.embedding_scale, residual_);
  }
  for (auto& block : blocks_) x = block->forward(context, x, tape);
  return x;
}

Linear& Transformer::output() { return output_ ? *output_ : embedding_; }

Tensor Transformer::nats(Context& context, float scale, Tape& tape) {
  const Tensor x = trunk(context, tape);
  const Span span(context.profiler, kCrossEntropy);
  const auto norm = ops::rms_norm(context.stream, x, final_norm_.value, shape_.norm_epsilon, compute_);
  const Tensor gradient = context.training() ? output().parameter().grad : Tensor();
  auto out = ops::linear_cross_entropy(context.stream, norm.y, output().weights(), context.tokens.targets, shape_.output_scale, scale,
                                       gradient, context.poll);
  if (context.training()) tape.push(SavedHead{x, norm.rstd, out.dx});
  return out.nats;
}

void Transformer::backward(Context& context, Tape& tape, const std::function<void(Index)>& finished) {
  const auto head = tape.pop<SavedHead>();
  Tensor dx = ops::rms_norm_backward(context.stream, head.dnormed, head.x, final_norm_.value, head.rstd, final_norm_.grad);
  finished(shape_.layers + 1);
  for (Index layer = shape_.layers - 1; layer >= 0; --layer) {
    dx = blocks_[static_cast<std::size_t>(layer)]->backward(context, dx, tape);
    finished(layer + 1);
  }
  const Span span(context.profiler, kEmbeddingBackward);
  ops::embedding_backward(context.stream, context.tokens.ids, dx, shape_.embedding_scale, embedding_.parameter().grad);
  finished(0);
}

Tensor Transformer::logits(Context& context, const Tensor& rows) {
  Tape unused;
  Tensor x = trunk(context, unused);
  if (rows.defined()) x = ops::gather_rows(context.stream, x, rows);
  const auto norm = ops::rms_norm(context.stream, x, final_norm_.value, shape_.norm_epsilon, compute_);
  const Index count = norm.y.rows();
  const Tensor logits = context.pass == Pass::decode
                            ? ops::matmul_by_row(context.stream, norm.y, output().parameter().value, {&count, 1}, DType::f32)
                            : ops::matmul(context.stream, norm.y, output().weights(), {&count, 1}, DType::f32, context.poll);
  return shape_.output_scale == 1.0F ? logits : ops::scaled(context.stream, logits, shape_.output_scale, DType::f32);
}

void Transformer::visit(const std::function<void(Index, Parameter&)>& see) {
  see(0, embedding_.parameter());
  for (Index layer = 0; layer < shape_.layers; ++layer) {
    blocks_[static_cast<std::size_t>(layer)]->visit([&](Parameter& parameter) { see(layer + 1, parameter); });
  }
  see(shape_.layers + 1, final_norm_);
  if (output_) see(shape_.layers + 1, output_->parameter());
}

void Transformer::visit_state(const std::function<void(State&)>& see) {
  for (auto& block : blocks_) block->visit_state(see);
}

void Transformer::after_step(Context& context, bool skipped) {
  for (auto& block : blocks_) block->after_step(context, skipped);
}

}  // namespace yard
