#include <cmath>

#include "core/ops/host/attention_block.h"
#include "core/ops/host/attention_by_row.h"
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

/// Keys and values of one head of one sequence.                                              (entries, width)
template <class V>
struct KeysValues {
  const V *keys, *values;
};

/// Memory of one thread for one block. The shares of f32 take the place of the scores that they are made of.
template <class V>
struct Scratch {
  static constexpr bool kInPlace = std::is_same_v<V, float>;
  Tensor narrow, wide;
  V *queries, *shares;
  float *scores, *out, *most, *sum;
  Scratch(Stream& stream, Index keys, Index width)
      : narrow(stream, {kBlockRows, width + (kInPlace ? 0 : keys)}, DTypeOf<V>::value), wide(stream, {kBlockRows, width + keys + 2}) {
    queries = narrow.data<V>();
    out = wide.data<float>();
    scores = out + kBlockRows * width;
    most = scores + kBlockRows * keys;
    sum = most + kBlockRows;
    if constexpr (kInPlace) {
      shares = scores;
    } else {
      shares = queries + kBlockRows * width;
    }
  }
};

/// Turns the scores of a block into unnormalised probabilities, `shares`, zero where a row does not see a key.
/// most, sum: (rows), the largest score of a row and the sum of exp(score - most).
template <class T, class V>
void exponentials(const AttentionBlock& block, const AttentionSettings& settings, const Scratch<V>& scratch) {
  const float cap = settings.cap;
  const float factor = cap == 0 ? settings.scale : settings.scale / cap;
  for (Index r = 0; r < block.rows; ++r) {
    float top = -std::numeric_limits<float>::infinity();
    float total = 0;
    for_each_part(block, [&](Index before, Index first, Index keys) {
      float* const row = scratch.scores + before + r * keys;
      const Seen seen(block, r, first, keys);
      if (cap != 0) {
#pragma omp simd
        for (Index j = seen.begin; j < seen.end; ++j) row[j] = cap * vtanh(row[j] * factor);
      }
      top = std::max(top, largest_f32(row + seen.from, seen.to - seen.from, cap == 0 ? factor : 1));
    });
    for_each_part(block, [&](Index before, Index first, Index keys) {
      const float* const row = scratch.scores + before + r * keys;
      V* const share = scratch.shares + before + r * keys;
      const Seen seen(block, r, first, keys);
      const float by = cap == 0 ? factor : 1;
      std::fill(share, share + seen.begin, V{});
#pragma omp simd reduction(+ : total)
      for (Index j = seen.begin; j < seen.end; ++j) {
        const float power = vexp(by * row[j] - top);
        const float value = j >= seen.from && j < seen.to ? power : 0;
        total += value;
        share[j] = met_as<T, V>(value);
      }
      std::fill(share + seen.end, share + keys, V{});
    });
    scratch.most[r] = top;
    scratch.sum[r] = total;
  }
}

template <class T, class V>
void attend(const AttentionBlock& block, const KeysValues<V>& kv, const AttentionSettings& settings, const T* queries, Index distance,
            T* out, Index out_distance, float* log_sum_exp, const Scratch<V>& scratch, DenseProducts<V>& products) {
  const Index width = settings.heads.width;
  const Index rows = padded(block.rows);
  load_rows(queries, distance, block.rows, rows, width, scratch.queries);
  for_each_part(block, [&](Index before, Index first, Index keys) {
    products.multiply(Operand::plain, Operand::transposed, rows, keys, width, scratch.queries, kv.keys + first * width,
                      scratch.scores + before, false);
  });
  exponentials<T>(block, settings, scratch);
  for_each_part(block, [&](Index before, Index first, Index keys) {
    std::fill(scratch.shares + before + block.rows * keys, scratch.shares + before + rows * keys, V{});
    products.multiply(Operand::plain, Operand::plain, rows, width, keys, scratch.shares + before, kv.values + first * width, scratch.out,
                      before > 0);
  });
  for (Index r = 0; r < block.rows; ++r) {
    copy_matrix(scratch.out + r * width, width, 1, width, out + r * out_distance, out_distance, 1 / scratch.sum[r]);
    if (log_sum_exp != nullptr) log_sum_exp[r * settings.heads.heads] = scratch.most[r] + std::log(scratch.sum[r]);
  }
}

template <class V>
std::vector<Scratch<V>> scratch_of_threads(Stream& stream, Index keys, Index width) {
  std::vector<Scratch<V>> all;
  for (int thread = 0; thread < host::team_size(); ++thread) all.emplace_back(stream, keys, width);
  return all;
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
  const Index entries = padded_keys(length);
  const auto attend_all = [&]<class T, class V>(T, V) {
    const T* const from = qkv.data<T>();
    const Tensor keys(stream, {sequences * kv_heads, entries * width}, DTypeOf<V>::value);
    const Tensor values(stream, {sequences * kv_heads, entries * width}, DTypeOf<V>::value);
    const auto scratch = scratch_of_threads<V>(stream, entries, width);
    auto products = host::one_for_each_thread<DenseProducts<V>>(stream);
    host::run_tasks(sequences * kv_heads, [&](Index task, int) {
      const T* const first = from + task / kv_heads * length * columns + (heads + task % kv_heads) * width;
      load_rows(first, columns, length, entries, width, keys.data<V>() + task * keys.cols());
      load_rows(first + kv_heads * width, columns, length, entries, width, values.data<V>() + task * values.cols());
    });
    host::run_tasks(sequences * heads * blocks, [&](Index task, int thread) {
      const Index sequence = task / (heads * blocks);
      const Index head = task / blocks % heads;
      const Index first_row = sequence * length;
      const AttentionBlock block =
          block_at(blocks - 1 - task % blocks, length, 0, positions.data<std::int32_t>() + first_row);  // longest first
      const Index at = sequence * kv_heads + head * kv_heads / heads;
      const KeysValues<V> kv{keys.data<V>() + at * keys.cols(), values.data<V>() + at * values.cols()};
      const Index row = first_row + block.row;
      attend(block, kv, settings, from + row * columns + head * width, columns, out.data<T>() + row * heads * width + head * width,
             heads * width, lse.data<float>() + row * heads + head, scratch[static_cast<std::size_t>(thread)],
             products[static_cast<std::size_t>(thread)]);
    });
  };
  with_float_type(qkv.dtype(), [&]<class T>(T type) { host::with_product_type<T>([&](auto value) { attend_all(type, value); }); });
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
  const Index room = padded_keys(longest);
  const auto attend_all = [&]<class T, class V>(T, V) {
    const Tensor padded_k(stream, {sequences * kv_heads, room * width}, DTypeOf<V>::value);
    const Tensor padded_v(stream, {sequences * kv_heads, room * width}, DTypeOf<V>::value);
    const auto scratch = scratch_of_threads<V>(stream, room, width);
    auto products = host::one_for_each_thread<DenseProducts<V>>(stream);
    host::run_tasks(sequences * kv_heads, [&](Index task, int) {
      const Index entries = before.data<std::int32_t>()[task / kv_heads] + fresh;
      const Index from = task * capacity * width;
      load_rows(keys.data<T>() + from, width, entries, room, width, padded_k.data<V>() + task * padded_k.cols());
      load_rows(values.data<T>() + from, width, entries, room, width, padded_v.data<V>() + task * padded_v.cols());
    });
    host::run_tasks(sequences * heads * blocks, [&](Index task, int thread) {
      const Index sequence = task / (heads * blocks);
      const Index head = task / blocks % heads;
      const AttentionBlock block = block_at(blocks - 1 - task % blocks, fresh, before.data<std::int32_t>()[sequence], nullptr);
      const Index at = sequence * kv_heads + head * kv_heads / heads;
      const KeysValues<V> kv{padded_k.data<V>() + at * padded_k.cols(), padded_v.data<V>() + at * padded_v.cols()};
      const Index row = sequence * fresh + block.row;
      attend(block, kv, settings, qkv.data<T>() + row * columns + head * width, columns, out.data<T>() + row * heads * width + head * width,
             heads * width, nullptr, scratch[static_cast<std::size_t>(thread)], products[static_cast<std::size_t>(thread)]);
    });
  };
  with_float_type(qkv.dtype(), [&]<class T>(T type) { host::with_product_type<T>([&](auto value) { attend_all(type, value); }); });
}

}  // namespace yard::ops::kernels
