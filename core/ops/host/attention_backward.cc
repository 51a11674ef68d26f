#include "core/ops/host/attention_block.h"
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

/// One head of one sequence in backward.
template <class T>
struct HeadBackward {
  const AttentionSettings& settings;
  const std::int32_t* positions;
  const T *qkv, *out, *dout;                        // at the head's queries, and at its columns of the result
  const float* log_sum_exp;                         // at the head's column
  const float *keys, *keys_turned, *values_turned;  // (length, width), (width, length) twice
  Index keys_distance;
  T* dqueries;
  float *dkeys, *dvalues;  // (length, width) of this head alone
};

/// Memory of one thread: queries, dout and dqueries of a block, its probabilities and their gradients.
Index backward_scratch(Index length, Index width) { return kBlockRows * (3 * width + 2 * distance_of(length)); }

template <class T>
void backward_block(const HeadBackward<T>& head, const AttentionBlock& block, float* scratch) {
  const AttentionSettings& settings = head.settings;
  const Index width = settings.heads.width;
  const Index columns = settings.heads.columns();
  const Index out_columns = settings.heads.heads * width;
  const Index distance = distance_of(settings.length);
  const Index rows = padded(block.rows);
  const Index keys = block.keys();
  float* const q = scratch;
  float* const dout = q + kBlockRows * width;
  float* const dq = dout + kBlockRows * width;
  float* const p = dq + kBlockRows * width;
  float* const ds = p + kBlockRows * distance;
  load_rows(head.qkv + block.row * columns, columns, block.rows, width, settings.scale, q);
  load_rows(head.dout + block.row * out_columns, out_columns, block.rows, width, 1, dout);
  sgemm(Operand::plain, Operand::plain, rows, keys, width, 1, q, width, head.keys_turned + block.first, head.keys_distance, 0, p, distance);
  sgemm(Operand::plain, Operand::plain, rows, keys, width, 1, dout, width, head.values_turned + block.first, head.keys_distance, 0, ds,
        distance);
  const float cap = settings.cap;
  const float inverse = cap == 0 ? 0 : 1 / cap;
  for (Index r = 0; r < rows; ++r) {
    float* const pr = p + r * distance;
    float* const dr = ds + r * distance;
    const bool real = r < block.rows;
    const Index from = real ? block.start(r) - block.first : 0;
    const Index to = real ? block.entry(r) + 1 - block.first : 0;
    float product = 0;  // <dout, out> is the sum of p dp over the keys
    float lse = 0;
    if (real) {
      const T* const o = head.out + (block.row + r) * out_columns;
      const float* const d = dout + r * width;
#pragma omp simd reduction(+ : product)
      for (Index i = 0; i < width; ++i) product += d[i] * static_cast<float>(o[i]);
      lse = head.log_sum_exp[(block.row + r) * settings.heads.heads];
    }
    if (cap == 0) {
#pragma omp simd
      for (Index j = from; j < to; ++j) {
        pr[j] = vexp(pr[j] - lse);
        dr[j] = pr[j] * (dr[j] - product);
      }
    } else {
#pragma omp simd
      for (Index j = from; j < to; ++j) {
        const float t = vtanh(pr[j] * inverse);
        pr[j] = vexp(cap * t - lse);
        dr[j] = pr[j] * (dr[j] - product) * (1 - t * t);
      }
    }
    std::fill(pr, pr + from, 0.0F);
    std::fill(pr + to, pr + keys, 0.0F);
    std::fill(dr, dr + from, 0.0F);
    std::fill(dr + to, dr + keys, 0.0F);
  }
  sgemm(Operand::transposed, Operand::plain, keys, width, rows, 1, p, distance, dout, width, 1, head.dvalues + block.first * width, width);
  sgemm(Operand::transposed, Operand::plain, keys, width, rows, 1, ds, distance, q, width, 1, head.dkeys + block.first * width, width);
  sgemm(Operand::plain, Operand::plain, rows, width, keys, settings.scale, ds, distance, head.keys + block.first * width, width, 0, dq,
        width);
  copy_matrix(dq, width, block.rows, width, head.dqueries + block.row * columns, columns);
}

}  // namespace

void attention_backward(Cpu, Stream& stream, const Tensor& dout, const Tensor& qkv, const Tensor& positions, const AttentionOut& forward,
                        const AttentionSettings& settings, const Tensor& dqkv) {
  const auto [heads, kv_heads, width] = settings.heads;
  const Index columns = settings.heads.columns();
  const Index length = settings.length;
  const Index sequences = qkv.rows() / length;
  const Index blocks = (length + kBlockRows - 1) / kBlockRows;
  const Index distance = distance_of(length);
  const Index head_values = length * width;
  const Tensor keys(stream, {sequences * kv_heads, head_values});
  const Tensor turned(stream, {sequences * kv_heads, 2 * width * distance});  // keys, then values
  const Tensor dkeys(stream, {sequences * heads, head_values});
  const Tensor dvalues(stream, {sequences * heads, head_values});
  const Tensor scratch(stream, {host::team_size(), backward_scratch(length, width)});
  with_float_type(qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    host::run_tasks(sequences * kv_heads, [&](Index task, int) {
      const T* const from = qkv.data<T>() + task / kv_heads * length * columns + (heads + task % kv_heads) * width;
      float* const to = turned.data<float>() + task * turned.cols();
      copy_matrix(from, columns, length, width, keys.data<float>() + task * keys.cols(), width);
      host::transpose_matrix(from, columns, length, width, to, distance);
      host::transpose_matrix(from + kv_heads * width, columns, length, width, to + width * distance, distance);
    });
    // A thread works through all blocks of a head, so that the gradients of its keys are added up in a fixed order.
    host::run_tasks(sequences * heads, [&](Index task, int thread) {
      const Index sequence = task / heads;
      const Index head = task % heads;
      const Index row = sequence * length;
      const Index at = sequence * kv_heads + head * kv_heads / heads;
      const float* const kv = turned.data<float>() + at * turned.cols();
      const HeadBackward<T> work{.settings = settings,
                                 .positions = positions.data<std::int32_t>() + row,
                                 .qkv = qkv.data<T>() + row * columns + head * width,
                                 .out = forward.out.data<T>() + (row * heads + head) * width,
                                 .dout = dout.data<T>() + (row * heads + head) * width,
                                 .log_sum_exp = forward.log_sum_exp.data<float>() + row * heads + head,
                                 .keys = keys.data<float>() + at * head_values,
                                 .keys_turned = kv,
                                 .values_turned = kv + width * distance,
                                 .keys_distance = distance,
                                 .dqueries = dqkv.data<T>() + row * columns + head * width,
                                 .dkeys = dkeys.data<float>() + task * head_values,
                                 .dvalues = dvalues.data<float>() + task * head_values};
      std::fill_n(work.dkeys, head_values, 0.0F);
      std::fill_n(work.dvalues, head_values, 0.0F);
      for (Index number = 0; number < blocks; ++number) {
        backward_block(work, block_at(number, length, 0, work.positions), scratch.data<float>() + thread * scratch.cols());
      }
    });
    const Index sharing = heads / kv_heads;
    host::run_tasks(sequences * kv_heads, [&](Index task, int) {
      const Index sequence = task / kv_heads;
      const Index head = task % kv_heads;
      const auto add_up = [&](const Tensor& parts, Index column) {
        float* const sum = parts.data<float>() + (sequence * heads + head * sharing) * head_values;
        for (Index other = 1; other < sharing; ++other) {
          const float* const part = sum + other * head_values;
#pragma omp simd
          for (Index i = 0; i < head_values; ++i) sum[i] += part[i];
        }
        copy_matrix(sum, width, length, width, dqkv.data<T>() + sequence * length * columns + column, columns);
      };
      add_up(dkeys, (heads + head) * width);
      add_up(dvalues, (heads + kv_heads + head) * width);
    });
  });
}

}  // namespace yard::ops::kernels
