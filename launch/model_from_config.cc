#include "launch/model_from_config.h"

#include "core/error.h"

namespace yard {

namespace {
ops::Activation activation_of(RunConfig::Activation::Value value) {
  switch (value) {
    case RunConfig::Activation::gelu_tanh:
      return ops::Activation::gelu_tanh;
    case RunConfig::Activation::gelu:
      return ops::Activation::gelu;
    case RunConfig::Activation::relu:
      return ops::Activation::relu;
    case RunConfig::Activation::silu:
      break;
  }
  return ops::Activation::silu;
}

Recompute recompute_of(RunConfig::Recompute::Value value) {
  switch (value) {
    case RunConfig::Recompute::moe:
      return Recompute::moe;
    case RunConfig::Recompute::full:
      return Recompute::full;
    case RunConfig::Recompute::none:
      break;
  }
  return Recompute::none;
}

FeedForwardSettings feed_forward(const RunConfig::Model& model, Index hidden) {
  FeedForwardSettings settings;
  settings.hidden = hidden;
  settings.gated = model.gated();
  settings.activation = activation_of(model.activation());
  return settings;
}

AttentionSettings attention(const RunConfig::Model& model) {
  AttentionSettings settings;
  settings.heads = model.heads();
  settings.kv_heads = model.kv_heads();
  settings.head_width = model.head_width();
  settings.scale = static_cast<float>(model.attention_scale());
  settings.cap = static_cast<float>(model.attention_cap());
  settings.rope_base = static_cast<float>(model.rope_base());
  settings.qk_norm = model.qk_norm() == RunConfig::QkNorm::width ? QkNorm::width : QkNorm::none;
  settings.norm_epsilon = static_cast<float>(model.norm_epsilon());
  return settings;
}

MoeSettings moe(const RunConfig::Model& model) {
  MoeSettings settings;
  settings.experts = model.experts();
  settings.top_k = model.top_k();
  settings.expert = feed_forward(model, model.hidden());
  settings.expert.dropout = static_cast<float>(model.expert_dropout());
  if (model.shared_hidden() > 0) settings.shared = feed_forward(model, model.shared_hidden());
  settings.shared_gate = model.shared_gate();
  return settings;
}

LayerSettings layer(const RunConfig::Model& model, Index number) {
  LayerSettings settings;
  settings.attention = attention(model);
  settings.norm_epsilon = static_cast<float>(model.norm_epsilon());
  settings.post_norms = model.post_norms();
  settings.dropout = static_cast<float>(model.dropout());
  if (model.experts() == 1) {
    settings.feed_forward = feed_forward(model, model.hidden());
  } else if (number >= model.first_dense_layers() && (number + 1) % model.moe_every() == 0) {
    settings.feed_forward = moe(model);
    if (model.dense_after() > 0) settings.dense_after = feed_forward(model, model.dense_after());
  } else {
    settings.feed_forward = feed_forward(model, model.dense_hidden());
  }
  return settings;
}

}  // namespace

ModelSettings model_from_config(const RunConfig& resolved) {
  const RunConfig::Model& model = resolved.model();
  check(model.has_kv_heads() && model.has_attention_scale() && model.has_top_k() && model.has_shared_hidden(),
        "a model's settings are taken from a resolved configuration");
  ModelSettings settings;
  settings.vocabulary = model.vocabulary();
  settings.width = model.width();
  settings.positions = model.positions();
  for (Index number = 0; number < model.layers(); ++number) settings.layers.push_back(layer(model, number));
  settings.embedding_scale = static_cast<float>(model.embedding_scale());
  settings.output_scale = static_cast<float>(model.output_scale());
  settings.norm_epsilon = static_cast<float>(model.norm_epsilon());
  settings.tied_output = model.tied_output();
  settings.f32_residual = model.f32_residual();
  settings.recompute = recompute_of(model.recompute());
  settings.deviation = static_cast<float>(resolved.init().deviation());
  settings.scale_residual = resolved.init().scale_residual();
  return settings;
}

}  // namespace yard
