#pragma once

#include "core/tensor/tensor.h"

namespace yard::ops {

/// One step of AdamW (Loshchilov and Hutter 2019) on flat f32 values, in one pass; t counts from 1:
/// g = grad * grad_scale; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
/// master -= rate * (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon) + decay * master).
struct AdamWSettings {
  double rate = 0, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, decay = 0, grad_scale = 1;  // f64: 1 - beta would lose digits
  Index t = 1;
};
/// grad, first, second, master: (n) f32. `value` (n) f32 or bf16 receives the new master, rounded; it may be `master` itself.
void adamw(Stream&, const Tensor& grad, const Tensor& first, const Tensor& second, const Tensor& master, const Tensor& value,
           const AdamWSettings&);

namespace kernels {
void adamw(Cpu, Stream&, const Tensor& grad, const Tensor& first, const Tensor& second, const Tensor& master, const Tensor& value,
           const AdamWSettings&);
void adamw(Cuda, Stream&, const Tensor& grad, const Tensor& first, const Tensor& second, const Tensor& master, const Tensor& value,
           const AdamWSettings&);
}  // namespace kernels

}  // namespace yard::ops
