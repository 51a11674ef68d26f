#pragma once

#include <string>

#include "core/nn/cost.h"
#include "core/tensor/dtype.h"
#include "launch/runtime.h"
#include "proto/config.pb.h"

namespace yard {

/// Compares a resolved model's sizes with the tensors in a checkpoint's folder, from the headers of its files. Called before anything is
/// built, so that a config.json with absurd numbers costs no memory. Throws InputError with both numbers.
void check_stored_sizes(const std::string& folder, const RunConfig& resolved);

/// Compares what the ranks of each host allocate for the model with the memory that the host has available: the weights, and in training
/// gradients and the optimizer's state. Collective. Throws AgreedError with both numbers.
void check_memory(RankRuntime&, const ModelCosts&, const RunConfig& resolved, DType compute, bool train);

}  // namespace yard
