#pragma once

#include "core/nn/model_shape.h"

namespace yard {

/// Floating-point operations of training on one token of a sequence of `length`, counted as Megatron-LM does (numerics, section 14): three
/// times the forward products (forward, input gradient, weight gradient), two operations a multiply-add, only the experts that a token
/// meets, causal attention halved; no router, no padding, no recomputation.
double training_flops_per_token(const ModelShape&, Index length);

}  // namespace yard
