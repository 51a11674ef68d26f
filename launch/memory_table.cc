#include "launch/memory_table.h"

#include <fmt/format.h>

#include "core/device/cpu.h"
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

}  // namespace

MemoryEstimate estimate_memory(const ModelCosts& costs, const RunConfig& config, DType compute) {
  const double b = compute == DType::bf16 ? 2 : 4;
  const auto expert_ranks = static_cast<double>(config.mesh().expert());
  const auto data_ranks = static_cast<double>(config.mesh().data());
  const double ranks = expert_ranks * data_ranks;
  const auto width = static_cast<double>(config.model().width());
  const Index vocabulary = config.model().vocabulary();
  const auto dense = static_cast<double>(costs.replicated_parameters());
  const double experts = static_cast<double>(costs.spread_parameters()) / expert_ranks;
  const double rows =
      static_cast<double>(config.data().global_batch() * config.data().length()) / static_cast<double>(config.data().accumulate()) / ranks;

  MemoryEstimate memory;
  memory.weights = (dense + experts) * b;
  // Packed once per step: in f32 the transpose; in bf16 the forward direction, while the other is packed on the fly; without bf16
  // instructions, both as f32. The embedding of an untied model is only looked up.
  const double multiplied = dense + experts - static_cast<double>(costs.has_output_matrix() ? costs.parameters(ModelPart::embedding) : 0);
  memory.packed = multiplied * (b == 2 && !has_fast_bf16() ? 8 : b);
  const auto shares = [](double values, double replicas) { return replicas > 1 ? values / replicas : 0; };
  memory.gradients = 4 * (dense + experts) + 4 * (shares(dense, ranks) + shares(experts, data_ranks));
  memory.optimizer = (b == 2 ? 12 : 8) * (dense / ranks + experts / data_ranks);
  memory.activations = rows * costs.saved_bytes_per_token(b);
  memory.exchange = 2 * rows * costs.slots_per_token() * width * b * (expert_ranks > 1 ? 2 : 1);
  const auto block = static_cast<double>(std::min<Index>(ops::cross_entropy_block(vocabulary), static_cast<Index>(rows)));
  memory.logits = block * static_cast<double>(vocabulary) * (4 + (b == 2 ? 2 : 0));
  memory.state = static_cast<double>(costs.state_bytes());
  return memory;
}

std::string memory_table(const ModelCosts& costs, const RunConfig& config, DType compute, double measured) {
  const MemoryEstimate memory = estimate_memory(costs, config, compute);
  return fmt::format(
      "memory a rank: {} = weights {} + packed {} + gradients {} + optimizer {} + activations {} + exchange {} + logits {}{}; measured "
      "peak {}",
      size_text(memory.all()), size_text(memory.weights), size_text(memory.packed), size_text(memory.gradients),
      size_text(memory.optimizer), size_text(memory.activations), size_text(memory.exchange), size_text(memory.logits),
      memory.state > 0 ? " + state " + size_text(memory.state) : "", size_text(measured));
}

std::string model_summary(const ModelCosts& costs, const RunConfig& config) {
  const RunConfig::Model& model = config.model();
  std::string text =
      fmt::format("{} parameters, {} active a token: {} layers of width {}", count_text(static_cast<double>(costs.parameters())),
                  count_text(static_cast<double>(costs.active_parameters())), model.layers(), model.width());
  if (model.experts() > 1) text += fmt::format(", {} experts of {}, top-{}", model.experts(), model.hidden(), model.top_k());
  return text + fmt::format(", vocabulary {}", model.vocabulary());
}

}  // namespace yard
