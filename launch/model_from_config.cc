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

}  // namespace

ModelShape shape_from_config(const RunConfig& resolved) {
  const RunConfig::Model& model = resolved.model();
  check(model.has_kv_heads() && model.has_attention_scale() && model.has_top_k() && model.has_shared_hidden(),
        "a model's shape is taken from a resolved configuration");
  ModelShape shape;
  shape.vocabulary = model.vocabulary();
  shape.width = model.width();
  shape.layers = model.layers();
  shape.heads = model.heads();
  shape.kv_heads = model.kv_heads();
  shape.head_width = model.head_width();
  shape.positions = model.positions();
  shape.experts = model.experts();
  shape.top_k = model.top_k();
  shape.hidden = model.hidden();
  shape.gated = model.gated();
  shape.activation = activation_of(model.activation());
  shape.dense_hidden = model.dense_hidden();
  shape.dense_after = model.dense_after();
  shape.first_dense_layers = model.first_dense_layers();
  shape.moe_every = model.moe_every();
  shape.shared_hidden = model.shared_hidden();
  shape.shared_gate = model.shared_gate();
  shape.attention_scale = static_cast<float>(model.attention_scale());
  shape.attention_cap = static_cast<float>(model.attention_cap());
  shape.post_norms = model.post_norms();
  shape.embedding_scale = static_cast<float>(model.embedding_scale());
  shape.output_scale = static_cast<float>(model.output_scale());
  shape.rope_base = static_cast<float>(model.rope_base());
  shape.norm_epsilon = static_cast<float>(model.norm_epsilon());
  shape.tied_output = model.tied_output();
  shape.dropout = static_cast<float>(model.dropout());
  shape.expert_dropout = static_cast<float>(model.expert_dropout());
  shape.f32_residual = model.f32_residual();
  shape.recompute = recompute_of(model.recompute());
  shape.deviation = static_cast<float>(resolved.init().deviation());
  shape.scale_residual = resolved.init().scale_residual();
  return shape;
}

}  // namespace yard
