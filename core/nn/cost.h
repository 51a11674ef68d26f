#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "core/tensor/tensor.h"

namespace yard {

/// What costs are summed by. `feed_forward` are the dense ones.
enum class ModelPart : std::uint8_t { embedding, norms, attention, router, experts, shared, feed_forward, output };
std::string_view name_of(ModelPart);

/// Matmuls of the forward pass: rows times the transpose of one (out, in) matrix for each group.
struct MatmulCost {
  std::string_view name;  // within its part; empty where the part has one only
  Index in = 0, out = 0;
  Index groups = 1;  // matrices among which the rows are divided: the experts, over all ranks
  double rows = 1;   // per token, over all groups
  bool f32 = false;  // whatever the run's precision: routers and gates

  double flops_per_token() const noexcept { return 2 * static_cast<double>(in) * static_cast<double>(out) * rows; }
};

/// Causal attention's scores and its weighted sum of values.
struct ScoresCost {
  Index heads = 0, width = 0;
  /// Forward, of a token in a sequence of `length`, which attends to half of it on average.
  double flops_per_token(double length) const noexcept { return 2 * length * static_cast<double>(heads) * static_cast<double>(width); }
};

/// What forward keeps for backward, per token.
struct SavedBytes {
  double values = 0;  // in the compute precision
  double fixed = 0;   // bytes whatever the precision

  double bytes(double per_value) const noexcept { return values * per_value + fixed; }
  SavedBytes& operator+=(const SavedBytes& other) noexcept {
    values += other.values;
    fixed += other.fixed;
    return *this;
  }
  SavedBytes operator*(double factor) const noexcept { return {values * factor, fixed * factor}; }
};

/// What one module costs, or one part of it, over all ranks.
struct Cost {
  ModelPart part = ModelPart::norms;
  Index parameters = 0;
  double active = 0;    // parameters that one token passes through
  bool spread = false;  // whether the parameters are divided among the ranks of an expert group, instead of on every rank
  std::vector<MatmulCost> matmuls;
  ScoresCost scores;
  SavedBytes saved;
  SavedBytes kept;        // the part of `saved` that is kept where the rest is recomputed (Tape::keep)
  SavedBytes recomputed;  // what backward of the layer keeps while it recomputes
  Index state_bytes = 0;  // not learned, on every rank
};
using CostVisitor = std::function<void(const Cost&)>;

/// The costs of a whole model.
class ModelCosts {
 public:
  /// One cost of a parameter group: 0 the embedding, 1 to L the layers, L + 1 the head.
  struct Entry {
    Index group = 0;
    Cost cost;
  };
  void add(Index group, const Cost& cost) { entries_.push_back({group, cost}); }
  const std::vector<Entry>& entries() const noexcept { return entries_; }

  Index parameters() const noexcept;
  Index parameters(ModelPart) const noexcept;
  /// Routed experts: divided among the ranks of an expert group.
  Index spread_parameters() const noexcept;
  Index replicated_parameters() const noexcept { return parameters() - spread_parameters(); }
  /// Parameters that one token passes through, its whole embedding included, as published counts of active parameters have it.
  Index active_parameters() const noexcept;

  /// Floating-point operations of training on one token of a sequence of `length`, as Megatron-LM counts them (numerics, section 14): three
  /// times the forward matmuls (forward, input gradient, weight gradient), two operations a multiply-add, only the experts that a token
  /// meets, causal attention halved; no router, no padding, no recomputation.
  double training_flops_per_token(Index length) const noexcept;

  /// What forward keeps for backward, per token, and the largest of what one layer adds while it recomputes.
  double saved_bytes_per_token(double bytes_per_value) const noexcept;
  Index state_bytes() const noexcept;
  /// Rows per token for routed experts, in the layer that has most; 0 in a dense model.
  double slots_per_token() const noexcept;
  /// Whether the output layer has a matrix of its own, so that the embedding is only looked up.
  bool has_output_matrix() const noexcept { return parameters(ModelPart::output) > 0; }

 private:
  std::vector<Entry> entries_;
};

}  // namespace yard
