#pragma once

#include "core/tensor/tensor.h"

namespace yard::ops {

enum class Activation : std::uint8_t { silu, gelu_tanh, gelu, relu };

/// h = weight * act(gate) * up (gated; Shazeer 2020), or weight * act(z), in f32, rounded once.
///                 z: (R, 2F) with gate in columns [0, F) and up in [F, 2F) when gated, else (R, F); weight: (R) f32, or empty for 1
///                 h: (R, F) in z's dtype
Tensor activate(Stream&, const Tensor& z, const Tensor& weight, Activation, bool gated);

/// From dh, the gradient of h above (which holds the weight already): dz, which takes the place of z in memory, and per row
/// d(weight) = <dh, act(gate) * up> before the weight.
///                 dh: (R, F)  dz: like z  dweight: (R) f32, empty when weight is empty
struct ActivateGradient {
  Tensor dz, dweight;
};
ActivateGradient activate_backward(Stream&, const Tensor& dh, const Tensor& z, const Tensor& weight, Activation, bool gated);

namespace kernels {
void activate(Cpu, Stream&, const Tensor& z, const Tensor& weight, Activation, bool gated, const Tensor& h);
void activate_backward(Cpu, Stream&, const Tensor& dh, const Tensor& z, const Tensor& weight, Activation, bool gated,
                       const Tensor& dweight);
void activate(Cuda, Stream&, const Tensor& z, const Tensor& weight, Activation, bool gated, const Tensor& h);
void activate_backward(Cuda, Stream&, const Tensor& dh, const Tensor& z, const Tensor& weight, Activation, bool gated,
                       const Tensor& dweight);
}  // namespace kernels

}  // namespace yard::ops
