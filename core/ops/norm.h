#pragma once

#include "core/tensor/tensor.h"

namespace yard::ops {

/// Root-mean-square norm (Zhang and Sennrich 2019): y = round(x * rstd) * weight, rstd = 1/sqrt(mean(x^2) + epsilon) per row, the inside in
/// f32. x * rstd is rounded to y's dtype before the weight, as transformers does.
///                                                                 x: (N, C) f32 or bf16  weight: (C) f32  y: (N, C) `out`  rstd: (N) f32
struct RmsNormOut {
  Tensor y, rstd;
};
RmsNormOut rms_norm(Stream&, const Tensor& x, const Tensor& weight, float epsilon, DType out);

/// Returns dx + residual (the gradient that reaches x by other ways; empty for none), rounded once to x's dtype; adds to dweight.
/// The weight's gradient takes x * rstd unrounded; its order of summation depends on N alone, not on the threads.
///                                                                 dy: (N, C) f32 or bf16  dweight: (C) f32  dx, residual: (N, C)
Tensor rms_norm_backward(Stream&, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& dweight,
                         const Tensor& residual = {});

namespace kernels {
void rms_norm(Cpu, Stream&, const Tensor& x, const Tensor& weight, float epsilon, const Tensor& y, const Tensor& rstd);
void rms_norm_backward(Cpu, Stream&, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& residual,
                       const Tensor& dx, const Tensor& dweight);
void rms_norm(Cuda, Stream&, const Tensor& x, const Tensor& weight, float epsilon, const Tensor& y, const Tensor& rstd);
void rms_norm_backward(Cuda, Stream&, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& residual,
                       const Tensor& dx, const Tensor& dweight);
}  // namespace kernels

}  // namespace yard::ops
