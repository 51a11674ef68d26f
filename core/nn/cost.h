#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "core/tensor/tensor.h"

namespace yard {

/// The parts of a model by which costs are summed. `feed_forward`: dense feed-forwards.
enum class ModelPart : std::uint8_t { embedding, norms, attention, router, experts, shared, feed_forward, output };
std::string_view name_of(ModelPart);

/// Matmuls of the forward pass: for each group, rows times the transpose of one (out, in) matrix.
struct MatmulCost {
  std::string_view name;  // within its part; empty if the part has only one matmul
  Index in = 0, out = 0;
  Index groups = 1;  // matrices that the rows are distributed over: the experts of all ranks
  double rows = 1;   // rows per token, over all groups
  bool f32 = false;  // computed in f32 regardless of the run's precision: routers and gates

  double flops_per_token() const noexcept { return 2 * static_cast<double>(in) * static_cast<double>(out) * rows; }
};

/// The two matmuls of causal attention: scores, and the weighted sum of values.
struct ScoresCost {
  Index heads = 0, width = 0;
  /// Forward FLOPs per token in a sequence of `length` tokens; a token attends to half of the sequence on average.
  double flops_per_token(double length) const noexcept { return 2 * length * static_cast<double>(heads) * static_cast<double>(width); }
};

/// Memory that forward keeps for backward, per token.
struct SavedBytes {
  double values = 0;  // number of values in the compute precision
  double fixed = 0;   // bytes, regardless of the precision

  double bytes(double per_value) const noexcept { return values * per_value + fixed; }
  SavedBytes& operator+=(const SavedBytes& other) noexcept {
    values += other.values;
    fixed += other.fixed;
    return *this;
  }
  SavedBytes operator*(double factor) const noexcept { return {values * factor, fixed * factor}; }
};

/// The cost of one module, or of one part of it, over all ranks.
struct Cost {
  ModelPart part = ModelPart::norms;
  Index parameters = 0;
  double active = 0;    // parameters that one token passes through
  bool spread = false;  // whether the parameters are sharded over the ranks of an expert group; else replicated on every rank
  std::vector<MatmulCost> matmuls;
  ScoresCost scores;
  SavedBytes saved;
  SavedBytes kept;        // the part of `saved` that is kept when the rest is recomputed (Tape::keep)
  SavedBytes recomputed;  // memory that the layer's backward needs while it recomputes
  Index state_bytes = 0;  // bytes of state that is not learned, on every rank
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
  /// Parameters of routed experts, sharded over the ranks of an expert group.
  Index spread_parameters() const noexcept;
  Index replicated_parameters() const noexcept { return parameters() - spread_parameters(); }
  /// Parameters that one token passes through, including the whole embedding matrix, as in published counts of active parameters.
  Index active_parameters() const noexcept;

  /// Training FLOPs per token in a sequence of `length` tokens, as Megatron-LM counts them (numerics, section 14): three times the forward
  /// matmuls (forward, input gradient, weight gradient), two operations per multiply-add, only the experts that a token is routed to,
  /// causal attention halved; router, padding and recomputation excluded.
  double training_flops_per_token(Index length) const noexcept;

  /// Bytes that forward keeps for backward, per token, plus the largest amount that one layer adds while it recomputes.
  double saved_bytes_per_token(double bytes_per_value) const noexcept;
  Index state_bytes() const noexcept;
  /// Routed experts' rows per token, the maximum over layers; 0 for a dense model.
  double slots_per_token() const noexcept;
  /// Whether the output layer has its own matrix (untied), so that the embedding is only looked up.
  bool has_output_matrix() const noexcept { return parameters(ModelPart::output) > 0; }

 private:
  std::vector<Entry> entries_;
};

}  // namespace yard
