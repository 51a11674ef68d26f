#pragma once

#include "core/tensor/tensor.h"

namespace yard::ops {

/// The arithmetic of routers after the scores: weights of choices and their gradients, capacity, noise, counts. All f32.
/// N tokens, E experts, K choices a token. Padding tokens have id -1.

/// w = scale * p[choice], divided by the sum over the token's choices (+ 1e-20) when `normalize`; 0 for choices of -1.
///                                                                       p: (N, E)  choice: (N, K) i32  w: (N, K)
Tensor choice_weights(Stream&, const Tensor& p, const Tensor& choice, bool normalize, float scale);
/// The gradient of the logits through w and the softmax (numerics, section 3).              dweight, weight: (N, K)  dlogits: (N, E)
Tensor choice_weights_backward(Stream&, const Tensor& dweight, const Tensor& p, const Tensor& choice, const Tensor& weight, bool normalize,
                               float scale);

/// Sets the choices of padding tokens to -1.                                                ids: (N) i32  choice: (N, K) i32
void mask_padding(Stream&, const Tensor& ids, const Tensor& choice);

enum class DropPolicy : std::uint8_t { position, weight };
/// Sets choices beyond an expert's capacity to -1, within each group of `group` rows: the latest go first, or those of the lowest weight
/// (ties: the latest). dropped, seen: (4) i64 each, += choices dropped and choices seen in each quarter of a sequence of `length` rows.
void drop_over_capacity(Stream&, const Tensor& choice, const Tensor& weight, Index experts, Index group, Index length, Index capacity,
                        DropPolicy, const Tensor& dropped, const Tensor& seen);

/// Sums over the first axis.                                                                counts: (L, E) i64  result: (1, E) i64
Tensor sum_over_layers(Stream&, const Tensor& counts);
/// The choices of each sequence counted by itself.                       choice: (N, K) i32  result: (N / length, E) i64
Tensor count_by_sequence(Stream&, const Tensor& choice, Index length, Index experts);

/// x times uniform noise in [1 - epsilon, 1 + epsilon); value (n, c) takes draw c of key_of(key, row_key[n]).    x: (N, C) f32
Tensor jitter(Stream&, const Tensor& x, float epsilon, std::uint64_t key, const Tensor& row_key);

/// Choices that ignore the scores, for experiments: balanced gives token t (by its key) experts t K, t K + 1, ... modulo E; skewed gives a
/// token the first expert with probability `skew` and otherwise balanced ones.   row_key: (N) i64  result: (N, K) i32
Tensor forced_choice(Stream&, const Tensor& row_key, Index experts, Index k, float skew, std::uint64_t key);

/// 1 / (1 + exp(-x)).                                                                       x, y: f32 of any shape
Tensor sigmoid(Stream&, const Tensor& x);
/// dy * y * (1 - y).
Tensor sigmoid_backward(Stream&, const Tensor& dy, const Tensor& y);
/// x[i] = first + i.                                                                        x: i64
void count_up(Stream&, const Tensor& x, Index first);
/// x[i] = i / k: the token of each slot.                                                    x: i32
void count_slots(Stream&, const Tensor& x, Index k);
/// inverse[order[i]] = i; entries that `order` does not name become -1.                    order: (M) i32  inverse: (S) i32
void invert(Stream&, const Tensor& order, const Tensor& inverse);
/// into += counts.                                                                          both: the same number of i64
void add_counts(Stream&, const Tensor& counts, const Tensor& into);

namespace kernels {
void choice_weights(Cpu, Stream&, const Tensor& p, const Tensor& choice, bool normalize, float scale, const Tensor& weight);
void choice_weights_backward(Cpu, Stream&, const Tensor& dweight, const Tensor& p, const Tensor& choice, const Tensor& weight,
                             bool normalize, float scale, const Tensor& dlogits);
void mask_padding(Cpu, Stream&, const Tensor& ids, const Tensor& choice);
void drop_over_capacity(Cpu, Stream&, const Tensor& choice, const Tensor& weight, Index experts, Index group, Index length, Index capacity,
                        DropPolicy, const Tensor& dropped, const Tensor& seen);
void sum_over_layers(Cpu, Stream&, const Tensor& counts, const Tensor& y);
void count_by_sequence(Cpu, Stream&, const Tensor& choice, Index length, const Tensor& counts);
void jitter(Cpu, Stream&, const Tensor& x, float epsilon, std::uint64_t key, const Tensor& row_key, const Tensor& y);
void forced_choice(Cpu, Stream&, const Tensor& row_key, Index experts, float skew, std::uint64_t key, const Tensor& choice);
void sigmoid(Cpu, Stream&, const Tensor& x, const Tensor& y);
void sigmoid_backward(Cpu, Stream&, const Tensor& dy, const Tensor& y, const Tensor& dx);
void count_up(Cpu, Stream&, const Tensor& x, Index first);
void count_slots(Cpu, Stream&, const Tensor& x, Index k);
void invert(Cpu, Stream&, const Tensor& order, const Tensor& inverse);
void add_counts(Cpu, Stream&, const Tensor& counts, const Tensor& into);

void choice_weights(Cuda, Stream&, const Tensor& p, const Tensor& choice, bool normalize, float scale, const Tensor& weight);
void choice_weights_backward(Cuda, Stream&, const Tensor& dweight, const Tensor& p, const Tensor& choice, const Tensor& weight,
                             bool normalize, float scale, const Tensor& dlogits);
void mask_padding(Cuda, Stream&, const Tensor& ids, const Tensor& choice);
void drop_over_capacity(Cuda, Stream&, const Tensor& choice, const Tensor& weight, Index experts, Index group, Index length, Index capacity,
                        DropPolicy, const Tensor& dropped, const Tensor& seen);
void sum_over_layers(Cuda, Stream&, const Tensor& counts, const Tensor& y);
void count_by_sequence(Cuda, Stream&, const Tensor& choice, Index length, const Tensor& counts);
void jitter(Cuda, Stream&, const Tensor& x, float epsilon, std::uint64_t key, const Tensor& row_key, const Tensor& y);
void forced_choice(Cuda, Stream&, const Tensor& row_key, Index experts, float skew, std::uint64_t key, const Tensor& choice);
void sigmoid(Cuda, Stream&, const Tensor& x, const Tensor& y);
void sigmoid_backward(Cuda, Stream&, const Tensor& dy, const Tensor& y, const Tensor& dx);
void count_up(Cuda, Stream&, const Tensor& x, Index first);
void count_slots(Cuda, Stream&, const Tensor& x, Index k);
void invert(Cuda, Stream&, const Tensor& order, const Tensor& inverse);
void add_counts(Cuda, Stream&, const Tensor& counts, const Tensor& into);
}  // namespace kernels

}  // namespace yard::ops
