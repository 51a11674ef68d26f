#pragma once

#include "core/tensor/tensor.h"

namespace yard::ops {

/// The heads of an attention layer. Queries, keys and values lie side by side in one row: heads * width, then kv_heads * width twice;
/// query head j uses key/value head j * kv_heads / heads (grouped-query attention, Ainslie et al. 2023).
struct Heads {
  Index heads = 1, kv_heads = 1, width = 64;
  Index columns() const noexcept { return (heads + 2 * kv_heads) * width; }
};

/// Rotates queries and keys in place by their positions, half-split (Su et al. 2021): pair (i, i + width/2) turns by
/// position * base^(-2i/width); `direction` -1 turns back (backward). Angles in f32.
///                                                                 qkv: (N, columns) f32 or bf16  positions: (N) i32
void rotary(Stream&, const Tensor& qkv, const Tensor& positions, Heads, float base, float direction);

struct AttentionSettings {
  Heads heads;
  Index length = 0;  // rows of a sequence; N is a multiple of it
  float scale = 1;   // of the scores
  float cap = 0;     // cap * tanh(score / cap) after the scale and before the mask; 0 for none
};

/// Causal attention: row i of a sequence attends to rows [i - positions[i], i] of it (positions count from the document's start, so that a
/// document mask needs nothing more). Scores and softmax in f32; only the log-sum-exp of each row is kept. Probabilities and the gradients
/// of scores are rounded to qkv's dtype where they meet its values in a product, as in FlashAttention (Dao et al. 2022). What a row becomes
/// does not depend on later rows, on other sequences or on the threads.
///                                          qkv: (N, columns)  out: (N, heads * width) in qkv's dtype  log_sum_exp: (N, heads) f32
struct AttentionOut {
  Tensor out, log_sum_exp;
};
AttentionOut attention(Stream&, const Tensor& qkv, const Tensor& positions, const AttentionSettings&);
/// Returns the gradient of qkv, key/value gradients summed over the heads that share them.      dout: (N, heads * width)
Tensor attention_backward(Stream&, const Tensor& dout, const Tensor& qkv, const Tensor& positions, const AttentionOut& forward,
                          const AttentionSettings&);

/// Attention of new rows to a cache that already holds their keys and values.
/// qkv: (sequences * fresh, columns); keys, values: (sequences, kv_heads, capacity, width) in qkv's dtype; row r of sequence s is entry
/// before[s] + r of its cache and attends to the entries up to and including itself.    before: (sequences) i32
/// result: (sequences * fresh, heads * width). The length of the settings is not read.
Tensor attention_cached(Stream&, const Tensor& qkv, const Tensor& keys, const Tensor& values, const Tensor& before,
                        const AttentionSettings&);
/// Copies the keys and values of new rows into the cache at before[s] + r; throws when they do not fit.
void cache_append(Stream&, const Tensor& qkv, const Tensor& before, Heads, Index fresh, const Tensor& keys, const Tensor& values);

namespace kernels {
void rotary(Cpu, Stream&, const Tensor& qkv, const Tensor& positions, Heads, float base, float direction);
void attention(Cpu, Stream&, const Tensor& qkv, const Tensor& positions, const AttentionSettings&, const Tensor& out, const Tensor& lse);
void attention_backward(Cpu, Stream&, const Tensor& dout, const Tensor& qkv, const Tensor& positions, const AttentionOut& forward,
                        const AttentionSettings&, const Tensor& dqkv);
void attention_cached(Cpu, Stream&, const Tensor& qkv, const Tensor& keys, const Tensor& values, const Tensor& before,
                      const AttentionSettings&, const Tensor& out);
void cache_append(Cpu, Stream&, const Tensor& qkv, const Tensor& before, Heads, Index fresh, const Tensor& keys, const Tensor& values);
void rotary(Cuda, Stream&, const Tensor& qkv, const Tensor& positions, Heads, float base, float direction);
void attention(Cuda, Stream&, const Tensor& qkv, const Tensor& positions, const AttentionSettings&, const Tensor& out, const Tensor& lse);
void attention_backward(Cuda, Stream&, const Tensor& dout, const Tensor& qkv, const Tensor& positions, const AttentionOut& forward,
                        const AttentionSettings&, const Tensor& dqkv);
void attention_cached(Cuda, Stream&, const Tensor& qkv, const Tensor& keys, const Tensor& values, const Tensor& before,
                      const AttentionSettings&, const Tensor& out);
void cache_append(Cuda, Stream&, const Tensor& qkv, const Tensor& before, Heads, Index fresh, const Tensor& keys, const Tensor& values);
}  // namespace kernels

}  // namespace yard::ops
