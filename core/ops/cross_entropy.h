#pragma once

#include "core/ops/matmul.h"

namespace yard::ops {

/// The output layer and the loss as one, in blocks of rows so that the logits (N, V) never exist: logits = logit_scale * x W^T in f32,
/// nats = log-sum-exp(logits) - logit[target]. A target of -1 is masked: zero loss, zero gradient. Throws when a target is beyond V.
///                                       x: (N, C)  weights: one group (V, C)  targets: (N) i32  nats: (N) f32
struct CrossEntropyOut {
  Tensor nats;  // of each row
  Tensor dx;    // (N, C) in x's dtype; empty unless gradients were asked for
};
/// With `dweight` (V, C) f32 given, also forms the gradient of scale * sum(nats): returns dx and adds to dweight. The order of summation
/// into dweight does not depend on the threads.
CrossEntropyOut linear_cross_entropy(Stream&, const Tensor& x, const Weights&, const Tensor& targets, float logit_scale, float scale,
                                     const Tensor& dweight, const std::function<void()>& poll = {});

/// Rows of a block: the memory that the logits take is this many rows of f32 (and of the compute dtype) at once.
Index cross_entropy_block(Index vocabulary) noexcept;

/// From products z = x W^T (N, V) f32, which it overwrites: nats (N) f32 of the logits logit_scale * z, and, unless `dlogits` is empty, the
/// gradient of scale * sum(nats) with respect to z, rounded to dlogits' dtype. dlogits has the shape of z and may be z itself. Masked rows
/// give zeros.
void cross_entropy_rows(Stream&, const Tensor& z, const Tensor& targets, float logit_scale, float scale, const Tensor& nats,
                        const Tensor& dlogits);

namespace kernels {
void cross_entropy_rows(Cpu, Stream&, const Tensor& z, const Tensor& targets, float logit_scale, float scale, const Tensor& nats,
                        const Tensor& dlogits);
void cross_entropy_rows(Cuda, Stream&, const Tensor& z, const Tensor& targets, float logit_scale, float scale, const Tensor& nats,
                        const Tensor& dlogits);
}  // namespace kernels

}  // namespace yard::ops
