#pragma once

#include <string>

#include "core/nn/cost.h"
#include "proto/config.pb.h"

namespace yard {

/// Bytes that a rank needs in training, by part (semantics, section 11).
struct MemoryEstimate {
  double weights = 0;      // in the run's precision
  double packed = 0;       // packed copies of weights for GEMMs
  double gradients = 0;    // f32 gradients, and the shards that receive their sums
  double optimizer = 0;    // f32 masters and moments, sharded over replicas
  double activations = 0;  // kept for backward, in one micro-batch
  double exchange = 0;     // rows being exchanged
  double logits = 0;       // one block of rows
  double state = 0;        // what is neither learned nor kept for backward, such as selection biases
  double all() const noexcept { return weights + packed + gradients + optimizer + activations + exchange + logits + state; }
};
/// For a resolved configuration and its model's costs; assumes that every rank's experts receive the mean number of rows.
MemoryEstimate estimate_memory(const ModelCosts&, const RunConfig&, DType compute);

/// The estimate as one line, with the measured bytes: the peak resident set minus the resident set before the model was built.
std::string memory_table(const ModelCosts&, const RunConfig&, DType compute, double measured_bytes);
/// "12.6 M parameters, 5.5 M active a token: ...".
std::string model_summary(const ModelCosts&, const RunConfig&);

}  // namespace yard
