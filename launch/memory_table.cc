#include "launch/memory_table.h"

#include <fmt/format.h>

#include "core/device/cpu.h"
#include "core/nn/parameter_count.h"
#include "core/ops/cross_entropy.h"

namespace yard {
namespace {

std::string count_text(double count) {
  if (count >= 1e9) return fmt::format("{:.2f} B", count * 1e-9);
  if (count >= 1e6) return fmt::format("{:.2f} M", count * 1e-6);
  return fmt::format("{:.1f} k", count * 1e-3);
}

std::string size_text(double bytes) {
  return bytes >= 1e9 ? fmt::format("{:.2f} GB", bytes * 1e-9) : fmt::format("{:.1f} MB", bytes * 1e-6);
}

/// What forward leaves for backward in one layer of n rows, b bytes a value.
double layer_activations(const ModelShape& model, Index layer, double n, double b) {
  const auto width = static_cast<double>(model.width);
  const auto k = static_cast<double>(model.top_k);
  const auto experts = static_cast<double>(model.experts);
  const double attention = n * static_cast<double>(2 * model.heads + 2 * model.kv_heads) * static_cast<double>(model.head_width) * b +
                           4 * n * static_cast<double>(model.heads);
  const double norms = 2 * n * width * b + 2 * n * width * b;  // their inputs, and what they hand on
  const double matrices = model.gated ? 3 : 2;
  if (!model.is_moe(layer)) return attention + norms + n * matrices * static_cast<double>(model.dense_width()) * b;
  const double m = n * k;
  const double routed = m * (width + matrices * static_cast<double>(model.hidden)) * b;
  const double router = 4 * n * (width + experts + 2 * k);
  const double beside = n * matrices * static_cast<double>(model.shared_hidden + model.dense_after) * b;
  return attention + norms + routed + router + beside;
}

}  // namespace

MemoryEstimate estimate_memory(const ModelShape& model, const RunConfig& config, DType compute) {
  const double b = compute == DType::bf16 ? 2 : 4;
  const auto expert_ranks = static_cast<double>(config.mesh().expert());
  const auto data_ranks = static_cast<double>(config.mesh().data());
  const double ranks = expert_ranks * data_ranks;
  const ParameterCount count = count_parameters(model);
  const auto dense = static_cast<double>(count.replicated());
  const double experts = static_cast<double>(count.experts) / expert_ranks;
  const double rows =
      static_cast<double>(config.data().global_batch() * config.data().length()) / static_cast<double>(config.data().accumulate()) / ranks;

  MemoryEstimate memory;
  memory.weights = (dense + experts) * b;
  // Laid out once a step: the transpose in f32, in bf16 the forward direction, the other one in passing; where the processor does not
  // multiply bf16, both as f32. The embedding of an untied model is only looked up.
  const double multiplied = dense + experts - static_cast<double>(model.tied_output ? 0 : model.vocabulary * model.width);
  memory.packed = multiplied * (b == 2 && !has_fast_bf16() ? 8 : b);
  const auto shares = [](double values, double replicas) { return replicas > 1 ? values / replicas : 0; };
  memory.gradients = 4 * (dense + experts) + 4 * (shares(dense, ranks) + shares(experts, data_ranks));
  memory.optimizer = (b == 2 ? 12 : 8) * (dense / ranks + experts / data_ranks);
  for (Index layer = 0; layer < model.layers; ++layer) {
    const double kept = layer_activations(model, layer, rows, b);
    memory.activations += model.recompute == Recompute::full ? rows * static_cast<double>(model.width) * b : kept;
  }
  if (model.recompute == Recompute::full) memory.activations += layer_activations(model, model.layers - 1, rows, b);
  if (model.moe_layers() > 0) {
    memory.exchange = 2 * rows * static_cast<double>(model.top_k) * static_cast<double>(model.width) * b * (expert_ranks > 1 ? 2 : 1);
  }
  const auto block = static_cast<double>(std::min<Index>(ops::cross_entropy_block(model.vocabulary), static_cast<Index>(rows)));
  memory.logits = block * static_cast<double>(model.vocabulary) * (4 + (b == 2 ? 2 : 0));
  return memory;
}

std::string memory_table(const ModelShape& model, const RunConfig& config, DType compute, double measured) {
  const MemoryEstimate memory = estimate_memory(model, config, compute);
  return fmt::format(
      "memory a rank: {} = weights {} + packed {} + gradients {} + optimizer {} + activations {} + exchange {} + logits {}; measured peak "
      "{}",
      size_text(memory.all()), size_text(memory.weights), size_text(memory.packed), size_text(memory.gradients),
      size_text(memory.optimizer), size_text(memory.activations), size_text(memory.exchange), size_text(memory.logits),
      size_text(measured));
}

std::string model_summary(const ModelShape& model) {
  const ParameterCount count = count_parameters(model);
  std::string text = fmt::format("{} parameters, {} active a token: {} layers of width {}", count_text(static_cast<double>(count.all())),
                                 count_text(static_cast<double>(count.active())), model.layers, model.width);
  if (model.experts > 1) text += fmt::format(", {} experts of {}, top-{}", model.experts, model.hidden, model.top_k);
  return text + fmt::format(", vocabulary {}", model.vocabulary);
}

}  // namespace yard
