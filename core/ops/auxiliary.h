#pragma once

#include "core/tensor/tensor.h"

namespace yard::ops {

/// Auxiliary losses of routers and their reported values. N tokens, E experts; padding tokens have id -1 and are ignored. Reported values
/// are f64, summed in an order that depends on shapes only.

/// factor * counts, f32.                                                                    counts: any shape i64
Tensor scaled_counts(Stream&, const Tensor& counts, double factor);

/// dlogits += p * (c - <p, c>) + 2 z * log_sum_exp * p, with c the row of the token's group: the gradient of <c, sum of p> and of
/// z * sum of log_sum_exp^2 through the softmax p.          coefficient: (groups, E), each for N / groups rows; empty for none
void add_auxiliary_gradient(Stream&, const Tensor& p, const Tensor& log_sum_exp, const Tensor& ids, const Tensor& coefficient, float z,
                            const Tensor& dlogits);

/// Per sequence: the number of tokens, then each expert's sum of scores over them.          p: (N, E)  result: (N / length, 1 + E) f64
Tensor sum_by_sequence(Stream&, const Tensor& p, const Tensor& ids, Index length);

/// into += this rank's part of the balance loss at coefficient 1, of tokens with `choices` experts each.
/// counts (E) i64, over all ranks: E / (choices T^2) sum_e n_e sum_t p_te with T = `everywhere` tokens of all ranks.
/// counts (N / length, E) i64: the same for each sequence separately, divided by the `everywhere` sequences of all ranks.
///                                                                       sums: as sum_by_sequence returns them  into: (1) f64
void add_balance_loss(Stream&, const Tensor& sums, const Tensor& counts, Index choices, double everywhere, const Tensor& into);

/// into += sum of log_sum_exp^2 / tokens: this rank's part of the z-loss.                   log_sum_exp: (N) f32  into: (1) f64
void add_z_loss(Stream&, const Tensor& log_sum_exp, const Tensor& ids, Index length, double tokens, const Tensor& into);

/// into += values, in f64.                                     values: f32 or i64  into: f64, as many elements as values
void add_to_report(Stream&, const Tensor& values, const Tensor& into);

namespace kernels {
void scaled_counts(Cpu, Stream&, const Tensor& counts, double factor, const Tensor& y);
void add_auxiliary_gradient(Cpu, Stream&, const Tensor& p, const Tensor& log_sum_exp, const Tensor& ids, const Tensor& coefficient, float z,
                            const Tensor& dlogits);
void sum_by_sequence(Cpu, Stream&, const Tensor& p, const Tensor& ids, Index length, const Tensor& sums);
void add_balance_loss(Cpu, Stream&, const Tensor& sums, const Tensor& counts, Index choices, double everywhere, const Tensor& into);
void add_z_loss(Cpu, Stream&, const Tensor& log_sum_exp, const Tensor& ids, Index length, double tokens, const Tensor& into);
void add_to_report(Cpu, Stream&, const Tensor& values, const Tensor& into);

void scaled_counts(Cuda, Stream&, const Tensor& counts, double factor, const Tensor& y);
void add_auxiliary_gradient(Cuda, Stream&, const Tensor& p, const Tensor& log_sum_exp, const Tensor& ids, const Tensor& coefficient,
                            float z, const Tensor& dlogits);
void sum_by_sequence(Cuda, Stream&, const Tensor& p, const Tensor& ids, Index length, const Tensor& sums);
void add_balance_loss(Cuda, Stream&, const Tensor& sums, const Tensor& counts, Index choices, double everywhere, const Tensor& into);
void add_z_loss(Cuda, Stream&, const Tensor& log_sum_exp, const Tensor& ids, Index length, double tokens, const Tensor& into);
void add_to_report(Cuda, Stream&, const Tensor& values, const Tensor& into);
}  // namespace kernels

}  // namespace yard::ops
