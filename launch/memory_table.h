#pragma once

#include <string>

#include "core/nn/cost.h"
#include "proto/config.pb.h"

namespace yard {

/// Bytes that a rank needs in training, by part (semantics, section 11).
struct MemoryEstimate {
  double weights = 0;      // in the run's precision, and state that is not learned
  double packed = 0;       // copies laid out for products
  double gradients = 0;    // f32, and the shares that sums arrive in
  double optimizer = 0;    // masters and moments, split over replicas
  double activations = 0;  // kept for backward, of one micro-step
  double exchange = 0;     // rows under way
  double logits = 0;       // one block of rows
  double state = 0;        // what is neither learned nor kept for backward, such as selection biases
  double all() const noexcept { return weights + packed + gradients + optimizer + activations + exchange + logits + state; }
};
/// For a resolved configuration and its model's costs; MoE layers are taken to receive the mean number of rows.
MemoryEstimate estimate_memory(const ModelCosts&, const RunConfig&, DType compute);

/// The estimate as a line, beside what was measured: the resident peak less the resident set before the model was made.
std::string memory_table(const ModelCosts&, const RunConfig&, DType compute, double measured_bytes);
/// "12.6 M parameters, 5.5 M active a token: ...".
std::string model_summary(const ModelCosts&, const RunConfig&);

}  // namespace yard
