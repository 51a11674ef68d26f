#pragma once

#include "core/tensor/tensor.h"

namespace yard::ops {

/// Softmax of each row and its log-sum-exp, f32.                    logits: (N, E)  p: (N, E)  log_sum_exp: (N)
struct SoftmaxOut {
  Tensor p, log_sum_exp;
};
SoftmaxOut softmax(Stream&, const Tensor& logits);
/// dlogits = p * (dp - <p, dp>), per row.                           p, dp: (N, E) f32
Tensor softmax_backward(Stream&, const Tensor& dp, const Tensor& p);

/// The k largest of each row, largest first, ties to the lowest index.   scores: (N, E) f32  index: (N, k) i32  value: (N, k) f32
/// gap: (N) f32, the k-th value minus the next (infinity when k = E, 0 between equal infinities): how far a choice is from flipping.
/// A NaN is lower than every number, and makes the gap it takes part in NaN.
struct TopK {
  Tensor index, value, gap;
};
TopK top_k(Stream&, const Tensor& scores, Index k);

/// counts[e] += how many entries of `expert` are e; entries of -1 are none's.        expert: (S) i32  counts: (E) i64
void count_experts(Stream&, const Tensor& expert, const Tensor& counts);

namespace kernels {
void softmax(Cpu, Stream&, const Tensor& logits, const Tensor& p, const Tensor& log_sum_exp);
void softmax_backward(Cpu, Stream&, const Tensor& dp, const Tensor& p, const Tensor& dlogits);
void top_k(Cpu, Stream&, const Tensor& scores, const Tensor& index, const Tensor& value, const Tensor& gap);
void count_experts(Cpu, Stream&, const Tensor& expert, const Tensor& counts);
void softmax(Cuda, Stream&, const Tensor& logits, const Tensor& p, const Tensor& log_sum_exp);
void softmax_backward(Cuda, Stream&, const Tensor& dp, const Tensor& p, const Tensor& dlogits);
void top_k(Cuda, Stream&, const Tensor& scores, const Tensor& index, const Tensor& value, const Tensor& gap);
void count_experts(Cuda, Stream&, const Tensor& expert, const Tensor& counts);
}  // namespace kernels

}  // namespace yard::ops
