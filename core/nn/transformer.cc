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

Parameter embedding_table(const ModelSettings& model) {
  Parameter table = Parameter::whole("model.embed_tokens.weight", {model.vocabulary, model.width}, Init::normal(model.deviation));
  table.rate = RateClass::embedding;
  return table;
}

/// The memory of one row of the residual stream.
SavedBytes residual_row(const ModelSettings& model) {
  const auto width = static_cast<double>(model.width);
  return model.f32_residual ? SavedBytes{0, 4 * width} : SavedBytes{width, 0};
}

std::unique_ptr<Module> make_block(const ModelSettings& model, DType compute, Index number, const Transformer::MakeMoe& make_moe) {
  const LayerSettings& layer = model.layer(number);
  const ModulePlace place(model, number);
  const std::string prefix = names::layer(number);
  std::vector<std::unique_ptr<Module>> parts;
  const auto add = [&](const std::string& norm, const std::string& post_norm, std::unique_ptr<Module> inner) {
    Residual::Settings settings;
    settings.norm_name = prefix + norm;
    settings.post_norm_name = layer.post_norms ? prefix + post_norm : "";
    settings.width = model.width;
    settings.epsilon = layer.norm_epsilon;
    settings.dropout = layer.dropout;
    settings.f32_residual = model.f32_residual;
    settings.compute = compute;
    settings.key = key_of(static_cast<std::uint64_t>(number), static_cast<std::uint64_t>(parts.size()));
    parts.push_back(std::make_unique<Residual>(std::move(settings), std::move(inner)));
  };
  add("input_layernorm.weight", "attention_output_norm.weight", make_attention(layer.attention, place, prefix + "self_attn."));
  add("post_attention_layernorm.weight", "feed_forward_output_norm.weight", make_feed_forward(model, number, make_moe));
  if (layer.dense_after) {
    add("dense_after_layernorm.weight", "dense_after_output_norm.weight",
        std::make_unique<DenseFeedForward>(make_dense_bank(*layer.dense_after, place, prefix + "dense_after.")));
  }
  std::unique_ptr<Module> block = std::make_unique<Sequence>(std::move(parts));
  if (model.recompute == Recompute::full) block = std::make_unique<Recomputed>(std::move(block), residual_row(model));
  return block;
}

}  // namespace

std::unique_ptr<Experts> make_dense_bank(const FeedForwardSettings& settings, const ModulePlace& place, const std::string& prefix) {
  return std::make_unique<FeedForwardExperts>(settings, place, ParamKind::dense, std::vector{names::dense(prefix)});
}

std::unique_ptr<Experts> make_experts(const MoeSettings& settings, const ModulePlace& place, Index first, Index count) {
  std::vector<FeedForwardNames> local;
  for (Index e = first; e < first + count; ++e) local.push_back(names::expert(place.layer, e));
  return std::make_unique<FeedForwardExperts>(settings.expert, place, ParamKind::expert, local, first);
}

std::unique_ptr<Module> make_feed_forward(const ModelSettings& model, Index number, const Transformer::MakeMoe& make_moe) {
  std::unique_ptr<Module> feed_forward;
  if (const auto* dense = std::get_if<FeedForwardSettings>(&model.layer(number).feed_forward)) {
    feed_forward = std::make_unique<DenseFeedForward>(make_dense_bank(*dense, ModulePlace(model, number), names::layer(number) + "mlp."));
  } else {
    feed_forward = make_moe(number);
  }
  if (model.recompute == Recompute::moe)
    feed_forward = std::make_unique<Recomputed>(std::move(feed_forward), SavedBytes{static_cast<double>(model.width), 0});
  return feed_forward;
}

Transformer::Transformer(ModelSettings settings, DType compute, const MakeMoe& make_moe)
    : settings_(std::move(settings)),
      compute_(compute),
      residual_(settings_.f32_residual ? DType::f32 : compute),
      embedding_(embedding_table(settings_)),
      final_norm_(Parameter::vector("model.norm.weight", settings_.width, Init::ones())) {
  for (Index layer = 0; layer < settings_.depth(); ++layer) blocks_.push_back(make_block(settings_, compute_, layer, make_moe));
  if (!settings_.tied_output) {
    output_ = std::make_unique<Linear>(
        Parameter::whole("lm_head.weight", {settings_.vocabulary, settings_.width}, Init::normal(settings_.deviation)));
  }
}

KeyValueCache Transformer::make_cache(Stream& stream, Index sequences, Index capacity) const {
  std::vector<ops::Heads> heads;
  for (const LayerSettings& layer : settings_.layers) heads.push_back(layer.attention.shape());
  return {stream, heads, sequences, capacity, compute_};
}

Tensor Transformer::trunk(Context& context, Tape& tape) {
  Tensor x;
  {
    const Span span(context.profiler, kEmbeddingForward);
    x = ops::embedding(context.stream, context.tokens.ids, embedding_.parameter().value, settings_.embedding_scale, residual_);
  }
  for (auto& block : blocks_) x = block->forward(context, x, tape);
  return x;
}

Linear& Transformer::output() { return output_ ? *output_ : embedding_; }

Tensor Transformer::nats(Context& context, float scale, Tape& tape) {
  const Tensor x = trunk(context, tape);
  const Span span(context.profiler, kCrossEntropy);
  const auto norm = ops::rms_norm(context.stream, x, final_norm_.value, settings_.norm_epsilon, compute_);
  const Tensor gradient = context.training() ? output().parameter().grad : Tensor();
  auto out = ops::linear_cross_entropy(context.stream, norm.y, output().weights(), context.tokens.targets, settings_.output_scale, scale,
                                       gradient, context.poll);
  if (context.training()) tape.push(SavedHead{x, norm.rstd, out.dx});
  return out.nats;
}

void Transformer::backward(Context& context, Tape& tape, const std::function<void(Index)>& finished) {
  const auto head = tape.pop<SavedHead>();
  Tensor dx = ops::rms_norm_backward(context.stream, head.dnormed, head.x, final_norm_.value, head.rstd, final_norm_.grad);
  finished(settings_.depth() + 1);
  for (Index layer = settings_.depth() - 1; layer >= 0; --layer) {
    dx = blocks_[static_cast<std::size_t>(layer)]->backward(context, dx, tape);
    finished(layer + 1);
  }
  const Span span(context.profiler, kEmbeddingBackward);
  ops::embedding_backward(context.stream, context.tokens.ids, dx, settings_.embedding_scale, embedding_.parameter().grad);
  finished(0);
}

Tensor Transformer::logits(Context& context, const Tensor& rows) {
  Tape unused;
  Tensor x = trunk(context, unused);
  if (rows.defined()) x = ops::gather_rows(context.stream, x, rows);
  const auto norm = ops::rms_norm(context.stream, x, final_norm_.value, settings_.norm_epsilon, compute_);
  const Index count = norm.y.rows();
  const Tensor logits = context.pass == Pass::decode
                            ? ops::matmul_by_row(context.stream, norm.y, output().parameter().value, {&count, 1}, DType::f32)
                            : ops::matmul(context.stream, norm.y, output().weights(), {&count, 1}, DType::f32, context.poll);
  return settings_.output_scale == 1.0F ? logits : ops::scaled(context.stream, logits, settings_.output_scale, DType::f32);
}

void Transformer::visit(const std::function<void(Index, Parameter&)>& see) {
  see(0, embedding_.parameter());
  for (Index layer = 0; layer < settings_.depth(); ++layer) {
    blocks_[static_cast<std::size_t>(layer)]->visit([&](Parameter& parameter) { see(layer + 1, parameter); });
  }
  see(settings_.depth() + 1, final_norm_);
  if (output_) see(settings_.depth() + 1, output_->parameter());
}

void Transformer::visit_state(const std::function<void(State&)>& see) {
  for (auto& block : blocks_) block->visit_state(see);
}

ModelCosts Transformer::costs() const {
  ModelCosts costs;
  Cost embedding;
  embedding.part = ModelPart::embedding;
  embedding.parameters = embedding_.parameter().shape.elements();
  embedding.active = static_cast<double>(embedding.parameters);
  costs.add(0, embedding);
  for (Index layer = 0; layer < settings_.depth(); ++layer) {
    blocks_[static_cast<std::size_t>(layer)]->visit_costs([&](const Cost& cost) { costs.add(layer + 1, cost); });
  }
  Cost norm;
  norm.parameters = settings_.width;
  norm.active = static_cast<double>(norm.parameters);
  norm.saved = residual_row(settings_);
  norm.saved.fixed += 4;  // rstd
  costs.add(settings_.depth() + 1, norm);
  Cost output;
  output.part = ModelPart::output;
  output.parameters = output_ ? output_->parameter().shape.elements() : 0;
  output.active = static_cast<double>(output.parameters);
  output.matmuls = {(output_ ? *output_ : embedding_).matmul("")};
  output.saved.values = static_cast<double>(settings_.width);  // the gradient of the normalised rows
  costs.add(settings_.depth() + 1, output);
  return costs;
}

void Transformer::after_step(Context& context, bool skipped) {
  for (auto& block : blocks_) block->after_step(context, skipped);
}

}  // namespace yard
