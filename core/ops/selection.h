#pragma once

#include "core/tensor/tensor.h"

namespace yard::ops {

/// Arithmetic of routers that choose experts by other scores than those of the weights (DeepSeek-V3). All f32; N tokens, E experts, K
/// choices per token. Padding tokens have id -1.

/// scores + bias, and minus infinity for experts outside the `kept` best of `groups` equal groups. A group's score is the sum of its two
/// largest biased scores; ties go to the lower group.                                          scores: (N, E)  bias: (E), or empty for 0
/// margin: (N), the score of the last kept group minus that of the next group; infinity if all are kept.
struct LimitedScores {
  Tensor scores, margin;
};
LimitedScores limit_groups(Stream&, const Tensor& scores, const Tensor& bias, Index groups, Index kept);

/// into = min(into, values).
void lower_to(Stream&, const Tensor& values, const Tensor& into);

/// The gradient of scores through choice_weights, for scores that are independent of each other (numerics, section 3).
///                                                          dweight, weight: (N, K)  scores: (N, E)  choice: (N, K) i32  result: (N, E)
Tensor choice_scores_backward(Stream&, const Tensor& dweight, const Tensor& scores, const Tensor& choice, const Tensor& weight,
                              bool normalize, float scale);

/// Each row divided by its sum (+ 1e-20).                                                  scores, q: (N, E)  sum: (N), with the 1e-20
struct NormalizedRows {
  Tensor q, sum;
};
NormalizedRows normalize_rows(Stream&, const Tensor& scores);
/// dscores += (c - <q, c>) / sum for tokens that are not padding, with c the row of the token's group: the gradient of <c, sum of q>.
///                                                                          coefficient: (groups, E), each for N / groups rows
void add_normalized_gradient(Stream&, const NormalizedRows&, const Tensor& ids, const Tensor& coefficient, const Tensor& dscores);

/// bias[e] += rate * sign(mean(counts) - counts[e]), compared as integers.                      counts: (E) i64  bias: (E)
void step_selection_bias(Stream&, const Tensor& counts, float rate, const Tensor& bias);

namespace kernels {
void limit_groups(Cpu, Stream&, const Tensor& scores, const Tensor& bias, Index groups, Index kept, const Tensor& y, const Tensor& margin);
void lower_to(Cpu, Stream&, const Tensor& values, const Tensor& into);
void choice_scores_backward(Cpu, Stream&, const Tensor& dweight, const Tensor& scores, const Tensor& choice, const Tensor& weight,
                            bool normalize, float scale, const Tensor& dscores);
void normalize_rows(Cpu, Stream&, const Tensor& scores, const Tensor& q, const Tensor& sum);
void add_normalized_gradient(Cpu, Stream&, const Tensor& q, const Tensor& sum, const Tensor& ids, const Tensor& coefficient,
                             const Tensor& dscores);
void step_selection_bias(Cpu, Stream&, const Tensor& counts, float rate, const Tensor& bias);

void limit_groups(Cuda, Stream&, const Tensor& scores, const Tensor& bias, Index groups, Index kept, const Tensor& y, const Tensor& margin);
void lower_to(Cuda, Stream&, const Tensor& values, const Tensor& into);
void choice_scores_backward(Cuda, Stream&, const Tensor& dweight, const Tensor& scores, const Tensor& choice, const Tensor& weight,
                            bool normalize, float scale, const Tensor& dscores);
void normalize_rows(Cuda, Stream&, const Tensor& scores, const Tensor& q, const Tensor& sum);
void add_normalized_gradient(Cuda, Stream&, const Tensor& q, const Tensor& sum, const Tensor& ids, const Tensor& coefficient,
                             const Tensor& dscores);
void step_selection_bias(Cuda, Stream&, const Tensor& counts, float rate, const Tensor& bias);
}  // namespace kernels

}  // namespace yard::ops
