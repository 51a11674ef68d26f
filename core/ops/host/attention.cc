#include <cmath>

#include "core/ops/host/attention_block.h"
#include "core/ops/host/attention_by_row.h"
#include "core/ops/vector_math.h"

namespace yard::ops::kernels {
namespace {

using host::AttentionBlock;
using host::block_at;
using host::copy_matrix;
using host::distance_of;
using host::kBlockRows;
using host::load_rows;
using host::Operand;
using host::padded;
using host::sgemm;

/// cap * tanh(score / cap); nothing where there is no cap.
void apply_cap(float cap, float* scores, Index count) {
  if (cap == 0) return;
  const float inverse = 1 / cap;
#pragma omp simd
  for (Index j = 0; j < count; ++j) scores[j] = cap * vtanh(scores[j] * inverse);
}

/// Turns the scores of a block into unnormalised probabilities, zero where a row does not see a key.
/// most, sum: (rows), the largest score of a row and the sum of exp(score - most).
void exponentials(const AttentionBlock& block, float cap, float* s, Index distance, float* most, float* sum) {
  for (Index r = 0; r < block.rows; ++r) {
    float* const row = s + r * distance;
    const Index from = block.start(r) - block.first;
    const Index to = block.entry(r) + 1 - block.first;
    apply_cap(cap, row + from, to - from);
    const float top = largest_f32(row + from, to - from);
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (Index j = from; j < to; ++j) {
      row[j] = vexp(row[j] - top);
      total += row[j];
    }
    std::fill(row, row + from, 0.0F);
    std::fill(row + to, row + block.keys(), 0.0F);
    most[r] = top;
    sum[r] = total;
  }
}

/// Keys and values of one head of one sequence as products want them.
struct KeysValues {
  const float* keys_turned;  // (width, entries)
  Index keys_distance;
  const float* values;  // (entries, width)
};

/// Memory of one thread for one block.
struct Scratch {
  float *queries, *scores, *out, *most, *sum;
  Index distance;  // of the scores
  static Index values(Index keys, Index width) { return kBlockRows * (2 * width + distance_of(keys) + 2); }
  Scratch(const Tensor& all, int thread, Index keys, Index width) : distance(distance_of(keys)) {
    queries = all.data<float>() + thread * all.cols();
    out = queries + kBlockRows * width;
    scores = out + kBlockRows * width;
    most = scores + kBlockRows * distance;
    sum = most + kBlockRows;
  }
};

template <class T>
void attend(const AttentionBlock& block, const KeysValues& kv, const AttentionSettings& settings, const T* queries, Index distance, T* out,
            Index out_distance, float* log_sum_exp, const Scratch& scratch) {
  const Index width = settings.heads.width;
  const Index keys = block.keys();
  load_rows(queries, distance, block.rows, width, settings.scale, scratch.queries);
  sgemm(Operand::plain, Operand::plain, padded(block.rows), keys, width, 1, scratch.queries, width, kv.keys_turned + block.first,
        kv.keys_distance, 0, scratch.scores, scratch.distance);
  exponentials(block, settings.cap, scratch.scores, scratch.distance, scratch.most, scratch.sum);
  sgemm(Operand::plain, Operand::plain, padded(block.rows), width, keys, 1, scratch.scores, scratch.distance,
        kv.values + block.first * width, width, 0, scratch.out, width);
  for (Index r = 0; r < block.rows; ++r) {
    copy_matrix(scratch.out + r * width, width, 1, width, out + r * out_distance, out_distance, 1 / scratch.sum[r]);
    if (log_sum_exp != nullptr) log_sum_exp[r * settings.heads.heads] = scratch.most[r] + std::log(scratch.sum[r]);
  }
}

}  // namespace

void attention(Cpu, Stream& stream, const Tensor& qkv, const Tensor& positions, const AttentionSettings& settings, const Tensor& out,
               const Tensor& lse) {
  const Index heads = settings.heads.heads;
  const Index kv_heads = settings.heads.kv_heads;
  const Index width = settings.heads.width;
  const Index columns = settings.heads.columns();
  const Index length = settings.length;
  const Index sequences = qkv.rows() / length;
  const Index blocks = (length + kBlockRows - 1) / kBlockRows;
  const Index distance = distance_of(length);
  const Tensor turned(stream, {sequences * kv_heads, width * distance});
  const Tensor values(stream, {sequences * kv_heads, length * width});
  const Tensor scratch(stream, {host::team_size(), Scratch::values(length, width)});
  with_float_type(qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* const from = qkv.data<T>();
    host::run_tasks(sequences * kv_heads, [&](Index task, int) {
      const T* const keys = from + task / kv_heads * length * columns + (heads + task % kv_heads) * width;
      host::transpose_matrix(keys, columns, length, width, turned.data<float>() + task * turned.cols(), distance);
      copy_matrix(keys + kv_heads * width, columns, length, width, values.data<float>() + task * values.cols(), width);
    });
    host::run_tasks(sequences * heads * blocks, [&](Index task, int thread) {
      const Index sequence = task / (heads * blocks);
      const Index head = task / blocks % heads;
      const Index first_row = sequence * length;
      const AttentionBlock block =
          block_at(blocks - 1 - task % blocks, length, 0, positions.data<std::int32_t>() + first_row);  // longest first
      const Index at = sequence * kv_heads + head * kv_heads / heads;
      const KeysValues kv{turned.data<float>() + at * turned.cols(), distance, values.data<float>() + at * values.cols()};
      const Index row = first_row + block.row;
      attend(block, kv, settings, from + row * columns + head * width, columns, out.data<T>() + row * heads * width + head * width,
             heads * width, lse.data<float>() + row * heads + head, Scratch(scratch, thread, length, width));
    });
  });
}

void attention_cached(Cpu, Stream& stream, const Tensor& qkv, const Tensor& keys, const Tensor& values, const Tensor& before,
                      const AttentionSettings& settings, const Tensor& out) {
  const Index heads = settings.heads.heads;
  const Index kv_heads = settings.heads.kv_heads;
  const Index width = settings.heads.width;
  const Index columns = settings.heads.columns();
  const Index sequences = keys.shape()[0];
  const Index capacity = keys.shape()[2];
  const Index fresh = qkv.rows() / sequences;
  const Index blocks = (fresh + kBlockRows - 1) / kBlockRows;
  Index longest = 0;
  for (const std::int32_t entries : before.values<std::int32_t>()) {
    check(entries >= 0 && entries + fresh <= capacity, "a cache of ", capacity, " entries cannot hold ", fresh, " rows after ", entries);
    longest = std::max<Index>(longest, entries + fresh);
  }
  if (fresh == 1) return host::attention_by_row(stream, qkv, keys, values, before, settings, out);
  const Index distance = distance_of(longest);
  const Tensor turned(stream, {sequences * kv_heads, width * distance});
  const Tensor wide(stream, {sequences * kv_heads, longest * width});
  const Tensor scratch(stream, {host::team_size(), Scratch::values(longest, width)});
  with_float_type(qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    host::run_tasks(sequences * kv_heads, [&](Index task, int) {
      const Index entries = before.data<std::int32_t>()[task / kv_heads] + fresh;
      const Index from = task * capacity * width;
      host::transpose_matrix(keys.data<T>() + from, width, entries, width, turned.data<float>() + task * turned.cols(), distance);
      copy_matrix(values.data<T>() + from, width, entries, width, wide.data<float>() + task * wide.cols(), width);
    });
    host::run_tasks(sequences * heads * blocks, [&](Index task, int thread) {
      const Index sequence = task / (heads * blocks);
      const Index head = task / blocks % heads;
      const AttentionBlock block = block_at(blocks - 1 - task % blocks, fresh, before.data<std::int32_t>()[sequence], nullptr);
      const Index at = sequence * kv_heads + head * kv_heads / heads;
      const KeysValues kv{turned.data<float>() + at * turned.cols(), distance, wide.data<float>() + at * wide.cols()};
      const Index row = sequence * fresh + block.row;
      attend(block, kv, settings, qkv.data<T>() + row * columns + head * width, columns, out.data<T>() + row * heads * width + head * width,
             heads * width, nullptr, Scratch(scratch, thread, longest, width));
    });
  });
}

}  // namespace yard::ops::kernels
