#include "core/ops/host/attention_block.h"
#include "core/ops/vector_math.h"

namespace yard::ops::kernels {
namespace {

using host::AttentionBlock;
using host::block_at;
using host::copy_matrix;
using host::DenseProducts;
using host::for_each_part;
using host::kBlockRows;
using host::load_rows;
using host::met_as;
using host::Operand;
using host::padded;
using host::padded_keys;
using host::Seen;

/// One head of one sequence in backward.
template <class T, class V>
struct HeadBackward {
  const AttentionSettings& settings;
  const std::int32_t* positions;
  const T *qkv, *out, *dout;  // at the head's queries, and at its columns of the result
  const float* log_sum_exp;   // at the head's column
  const V *keys, *values;     // (entries, width)
  T* dqueries;
  float *dkeys, *dvalues;  // (entries, width) of this head alone; dkeys without the scale
};

/// Memory of one thread: queries, dout and dqueries of a block, its probabilities and their gradients as they are made (p, ds) and as they
/// are multiplied (shares, turns), which in f32 is the same place.
template <class V>
struct Scratch {
  static constexpr bool kInPlace = std::is_same_v<V, float>;
  Tensor narrow, wide;
  V *q, *dout, *shares, *turns;
  float *dq, *p, *ds;
  Scratch(Stream& stream, Index keys, Index width)
      : narrow(stream, {kBlockRows, 2 * (width + (kInPlace ? 0 : keys))}, DTypeOf<V>::value), wide(stream, {kBlockRows, width + 2 * keys}) {
    q = narrow.data<V>();
    dout = q + kBlockRows * width;
    dq = wide.data<float>();
    p = dq + kBlockRows * width;
    ds = p + kBlockRows * keys;
    if constexpr (kInPlace) {
      shares = p;
      turns = ds;
    } else {
      shares = dout + kBlockRows * width;
      turns = shares + kBlockRows * keys;
    }
  }
};

/// One row of the probabilities and of the gradient of its scores, zero where the row does not see a key; in: its scores and the gradient
/// of its probabilities. `product` is the sum of probabilities times their gradients over all keys.
template <class T, class V>
void gradient_row(const float* scores, const float* dp, const Seen& seen, Index keys, const AttentionSettings& settings, float lse,
                  float product, V* shares, V* turns) {
  std::fill(shares, shares + seen.begin, V{});
  std::fill(turns, turns + seen.begin, V{});
  const float scale = settings.scale;
  const float cap = settings.cap;
  if (cap == 0) {
#pragma omp simd
    for (Index j = seen.begin; j < seen.end; ++j) {
      const float power = vexp(scale * scores[j] - lse);
      const float p = j >= seen.from && j < seen.to ? power : 0;
      shares[j] = met_as<T, V>(p);
      turns[j] = met_as<T, V>(p * (dp[j] - product));
    }
  } else {
    const float inverse = scale / cap;
#pragma omp simd
    for (Index j = seen.begin; j < seen.end; ++j) {
      const float t = vtanh(scores[j] * inverse);
      const float power = vexp(cap * t - lse);
      const float p = j >= seen.from && j < seen.to ? power : 0;
      shares[j] = met_as<T, V>(p);
      turns[j] = met_as<T, V>(p * (dp[j] - product) * (1 - t * t));
    }
  }
  std::fill(shares + seen.end, shares + keys, V{});
  std::fill(turns + seen.end, turns + keys, V{});
}

template <class T, class V>
void backward_block(const HeadBackward<T, V>& head, const AttentionBlock& block, const Scratch<V>& scratch, DenseProducts<V>& products) {
  const AttentionSettings& settings = head.settings;
  const Index width = settings.heads.width;
  const Index columns = settings.heads.columns();
  const Index out_columns = settings.heads.heads * width;
  const Index rows = padded(block.rows);
  load_rows(head.qkv + block.row * columns, columns, block.rows, rows, width, scratch.q);
  load_rows(head.dout + block.row * out_columns, out_columns, block.rows, rows, width, scratch.dout);
  std::array<float, kBlockRows> sums{};  // <dout, out> is the sum of p dp over the keys
  for (Index r = 0; r < block.rows; ++r) {
    const T* const o = head.out + (block.row + r) * out_columns;
    const T* const d = head.dout + (block.row + r) * out_columns;
    float product = 0;
#pragma omp simd reduction(+ : product)
    for (Index i = 0; i < width; ++i) product += static_cast<float>(d[i]) * static_cast<float>(o[i]);
    sums[static_cast<std::size_t>(r)] = product;
  }
  for_each_part(block, [&](Index before, Index first, Index keys) {
    V* const shares = scratch.shares;
    V* const turns = scratch.turns;
    const V* const k = head.keys + first * width;
    products.multiply(Operand::plain, Operand::transposed, rows, keys, width, scratch.q, k, scratch.p, false);
    products.multiply(Operand::plain, Operand::transposed, rows, keys, width, scratch.dout, head.values + first * width, scratch.ds, false);
    for (Index r = 0; r < block.rows; ++r) {
      gradient_row<T>(scratch.p + r * keys, scratch.ds + r * keys, Seen(block, r, first, keys), keys, settings,
                      head.log_sum_exp[(block.row + r) * settings.heads.heads], sums[static_cast<std::size_t>(r)], shares + r * keys,
                      turns + r * keys);
    }
    std::fill(shares + block.rows * keys, shares + rows * keys, V{});
    std::fill(turns + block.rows * keys, turns + rows * keys, V{});
    products.multiply(Operand::transposed, Operand::plain, keys, width, rows, shares, scratch.dout, head.dvalues + first * width, true);
    products.multiply(Operand::transposed, Operand::plain, keys, width, rows, turns, scratch.q, head.dkeys + first * width, true);
    products.multiply(Operand::plain, Operand::plain, rows, width, keys, turns, k, scratch.dq, before > 0);
  });
  copy_matrix(scratch.dq, width, block.rows, width, head.dqueries + block.row * columns, columns, settings.scale);
}

}  // namespace

void attention_backward(Cpu, Stream& stream, const Tensor& dout, const Tensor& qkv, const Tensor& positions, const AttentionOut& forward,
                        const AttentionSettings& settings, const Tensor& dqkv) {
  const Index heads = settings.heads.heads;
  const Index kv_heads = settings.heads.kv_heads;
  const Index width = settings.heads.width;
  const Index columns = settings.heads.columns();
  const Index length = settings.length;
  const Index sequences = qkv.rows() / length;
  const Index blocks = (length + kBlockRows - 1) / kBlockRows;
  const Index head_values = padded_keys(length) * width;
  const auto differentiate = [&]<class T, class V>(T, V) {
    const Tensor keys(stream, {sequences * kv_heads, head_values}, DTypeOf<V>::value);
    const Tensor values(stream, {sequences * kv_heads, head_values}, DTypeOf<V>::value);
    const Tensor dkeys(stream, {sequences * heads, head_values});
    const Tensor dvalues(stream, {sequences * heads, head_values});
    std::vector<Scratch<V>> scratch;
    for (int thread = 0; thread < host::team_size(); ++thread)
      scratch.emplace_back(stream, std::min(padded_keys(length), host::kKeysAtOnce), width);
    auto products = host::one_for_each_thread<DenseProducts<V>>(stream);
    host::run_tasks(sequences * kv_heads, [&](Index task, int) {
      const T* const from = qkv.data<T>() + task / kv_heads * length * columns + (heads + task % kv_heads) * width;
      load_rows(from, columns, length, padded_keys(length), width, keys.data<V>() + task * head_values);
      load_rows(from + kv_heads * width, columns, length, padded_keys(length), width, values.data<V>() + task * head_values);
    });
    // A thread works through all blocks of a head, so that the gradients of its keys are added up in a fixed order.
    host::run_tasks(sequences * heads, [&](Index task, int thread) {
      const Index sequence = task / heads;
      const Index head = task % heads;
      const Index row = sequence * length;
      const Index at = (sequence * kv_heads + head * kv_heads / heads) * head_values;
      const HeadBackward<T, V> work{.settings = settings,
                                    .positions = positions.data<std::int32_t>() + row,
                                    .qkv = qkv.data<T>() + row * columns + head * width,
                                    .out = forward.out.data<T>() + (row * heads + head) * width,
                                    .dout = dout.data<T>() + (row * heads + head) * width,
                                    .log_sum_exp = forward.log_sum_exp.data<float>() + row * heads + head,
                                    .keys = keys.data<V>() + at,
                                    .values = values.data<V>() + at,
                                    .dqueries = dqkv.data<T>() + row * columns + head * width,
                                    .dkeys = dkeys.data<float>() + task * head_values,
                                    .dvalues = dvalues.data<float>() + task * head_values};
      std::fill_n(work.dkeys, head_values, 0.0F);
      std::fill_n(work.dvalues, head_values, 0.0F);
      for (Index number = 0; number < blocks; ++number) {
        backward_block(work, block_at(number, length, 0, work.positions), scratch[static_cast<std::size_t>(thread)],
                       products[static_cast<std::size_t>(thread)]);
      }
    });
    const Index sharing = heads / kv_heads;
    host::run_tasks(sequences * kv_heads, [&](Index task, int) {
      const Index sequence = task / kv_heads;
      const Index head = task % kv_heads;
      const auto add_up = [&](const Tensor& parts, Index column, float factor) {
        float* const sum = parts.data<float>() + (sequence * heads + head * sharing) * head_values;
        for (Index other = 1; other < sharing; ++other) {
          const float* const part = sum + other * head_values;
#pragma omp simd
          for (Index i = 0; i < length * width; ++i) sum[i] += part[i];
        }
        copy_matrix(sum, width, length, width, dqkv.data<T>() + sequence * length * columns + column, columns, factor);
      };
      add_up(dkeys, (heads + head) * width, settings.scale);
      add_up(dvalues, (heads + kv_heads + head) * width, 1);
    });
  };
  with_float_type(qkv.dtype(), [&]<class T>(T type) { host::with_product_type<T>([&](auto value) { differentiate(type, value); }); });
}

}  // namespace yard::ops::kernels
