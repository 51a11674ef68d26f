#include "core/ops/attention.h"

#include <cmath>
#include <vector>

#include "core/ops/gpu_products.h"

namespace yard::ops::kernels {
namespace {

// ---------------------------------------------------------------------------------------------------------------------- rotary positions

/// How fast each pair turns, on the device; kept from call to call.
struct RotaryRates {
  float base = 0;
  Tensor rates;  // (half)

  const Tensor& of(Stream& stream, float wanted_base, Index half) {
    if (base == wanted_base && rates.defined() && rates.elements() == half) return rates;
    std::vector<float> values(static_cast<std::size_t>(half));
    for (Index i = 0; i < half; ++i) {
      values[static_cast<std::size_t>(i)] =
          static_cast<float>(std::pow(static_cast<double>(wanted_base), -static_cast<double>(i) / static_cast<double>(half)));
    }
    rates = Tensor::of<float>(stream, {half}, values);
    base = wanted_base;
    return rates;
  }
};

/// A thread turns one pair of every head of a row.
template <class T>
__global__ void turn_pairs(T* qkv, const std::int32_t* positions, const float* rates, float direction, Index rows, Index columns,
                           Index heads, Index width) {
  const Index half = width / 2;
  if (item() >= rows * half) return;
  const Index row = item() / half;
  const Index i = item() % half;
  require(positions[row] >= 0, "a position is below zero");
  const float angle = static_cast<float>(positions[row]) * rates[i];
  const float c = cosf(angle);
  const float s = direction * sinf(angle);
  for (Index head = 0; head < heads; ++head) {
    T* const first = qkv + row * columns + head * width + i;
    const float a = first[0];
    const float b = first[half];
    first[0] = a * c - b * s;
    first[half] = b * c + a * s;
  }
}

// -------------------------------------------------------------------------------------------------------------- blocks of query rows

constexpr Index kBlockRows = 256;

/// A block of query rows [row, row + rows) of a sequence that starts at `first`; its products see the keys [0, row + rows).
struct QueryBlock {
  Index first, row, rows;
  constexpr Index keys() const { return row + rows; }
};

template <class Body>
void for_each_block(Index rows, Index length, const Body& body) {
  for (Index first = 0; first < rows; first += length) {
    for (Index row = 0; row < length; row += kBlockRows) body(QueryBlock{first, row, std::min(kBlockRows, length - row)});
  }
}

/// The matrices of one block of one sequence. Query head j uses key and value head j / sharing; one batch of products has the key and value
/// heads, each with the query heads that are `part` among those that share it.
struct BlockProducts {
  const Tensor& qkv;
  const AttentionSettings& settings;
  QueryBlock block;

  const Heads& heads() const { return settings.heads; }
  Index sharing() const { return heads().heads / heads().kv_heads; }
  const void* at(const Tensor& tensor, Index row, Index column) const {
    return static_cast<const std::byte*>(tensor.raw()) + static_cast<std::size_t>(row * tensor.cols() + column) * size_of(tensor.dtype());
  }
  void* at(const Tensor& tensor, Index row, Index column) {
    return const_cast<void*>(static_cast<const BlockProducts*>(this)->at(tensor, row, column));
  }
  /// Where the part's first query head of each key head lies in a block of (heads, rows, keys).
  void* scores(const Tensor& tensor, Index part) const {
    return static_cast<std::byte*>(tensor.raw()) + static_cast<std::size_t>(part * block.rows * block.keys()) * size_of(tensor.dtype());
  }
  Index key_column() const { return heads().heads * heads().width; }
  Index value_column() const { return (heads().heads + heads().kv_heads) * heads().width; }

  /// result (heads, rows, keys) f32 = factor * rows of `from` times the transpose of the keys (or values) at `column`.
  void against_keys(cublasHandle_t handle, const Tensor& from, Index column, float factor, const Tensor& result) {
    const Index width = heads().width;
    for (Index part = 0; part < sharing(); ++part) {
      multiply(handle,
               {.m = block.rows,
                .n = block.keys(),
                .k = width,
                .a = at(from, block.first + block.row, part * width),
                .b = at(qkv, block.first, column),
                .b_transposed = true,
                .c = scores(result, part),
                .factor = factor,
                .a_distance = from.cols(),
                .b_distance = qkv.cols(),
                .batch = heads().kv_heads,
                .a_step = sharing() * width,
                .b_step = width,
                .c_step = sharing() * block.rows * block.keys()},
               {qkv.dtype(), DType::f32});
    }
  }

  /// Rows of `into` = factor * p (heads, rows, keys) times the keys (or values) at `column`.
  void with_keys(cublasHandle_t handle, const Tensor& p, Index column, float factor, const Tensor& into) {
    const Index width = heads().width;
    for (Index part = 0; part < sharing(); ++part) {
      multiply(handle,
               {.m = block.rows,
                .n = width,
                .k = block.keys(),
                .a = scores(p, part),
                .b = at(qkv, block.first, column),
                .c = at(into, block.first + block.row, part * width),
                .factor = factor,
                .b_distance = qkv.cols(),
                .c_distance = into.cols(),
                .batch = heads().kv_heads,
                .a_step = sharing() * block.rows * block.keys(),
                .b_step = width,
                .c_step = sharing() * width},
               {qkv.dtype(), into.dtype()});
    }
  }

  /// into (length, kv_heads * width) f32 += factor * transposed p times rows of `from`, query heads that share a key head one after
  /// another.
  void onto_keys(cublasHandle_t handle, const Tensor& p, const Tensor& from, float factor, const Tensor& into) {
    const Index width = heads().width;
    for (Index part = 0; part < sharing(); ++part) {
      multiply(handle,
               {.m = block.keys(),
                .n = width,
                .k = block.rows,
                .a = scores(p, part),
                .a_transposed = true,
                .b = at(from, block.first + block.row, part * width),
                .c = into.raw(),
                .factor = factor,
                .b_distance = from.cols(),
                .c_distance = into.cols(),
                .batch = heads().kv_heads,
                .a_step = sharing() * block.rows * block.keys(),
                .b_step = sharing() * width,
                .c_step = width},
               {qkv.dtype(), DType::f32, true});
    }
  }
};

/// What a thread block of the kernels below works on: one row of one head, blockIdx.x the row of the block and blockIdx.y the head.
struct ScoreRow {
  Index entry, from;  // its place in the sequence, and the first key it sees
  Index at;           // of its scores

  __device__ ScoreRow(const std::int32_t* positions, QueryBlock block)
      : entry(block.row + blockIdx.x),
        from(entry - positions[block.first + entry]),
        at((static_cast<Index>(blockIdx.y) * block.rows + blockIdx.x) * block.keys()) {
    require(from >= 0 && from <= entry, "a row is at a position that its sequence does not have");
  }
  __device__ bool sees(Index key) const { return key >= from && key <= entry; }
};

__device__ __forceinline__ float capped(float score, float cap) { return cap == 0 ? score : cap * tanhf(score / cap); }

/// Probabilities from scores, zero where a row does not see a key, and the row's log-sum-exp. p may be the scores themselves.
template <class T>
__global__ void probabilities(const float* scores, const std::int32_t* positions, QueryBlock block, float cap, T* p, float* log_sum_exp,
                              Index heads) {
  const ScoreRow row(positions, block);
  float top = -INFINITY;
  for (Index j = row.from + threadIdx.x; j <= row.entry; j += blockDim.x) top = Max{}(top, capped(scores[row.at + j], cap));
  top = block_reduce(top, Max{});
  float sum = 0;
  for (Index j = row.from + threadIdx.x; j <= row.entry; j += blockDim.x) sum += expf(capped(scores[row.at + j], cap) - top);
  sum = block_reduce(sum);
  for (Index j = threadIdx.x; j < block.keys(); j += blockDim.x) {
    p[row.at + j] = row.sees(j) ? expf(capped(scores[row.at + j], cap) - top) / sum : 0.0F;
  }
  if (threadIdx.x == 0) log_sum_exp[(block.first + row.entry) * heads + blockIdx.y] = top + logf(sum);
}

/// Probabilities again and the gradients of scores before the cap, p (dp - <dout, out>) (1 - tanh^2). p may be the scores, ds the dp.
template <class T>
__global__ void score_gradients(const float* scores, const float* dp, const std::int32_t* positions, QueryBlock block, float cap,
                                const float* log_sum_exp, const T* dout, const T* out, T* p, T* ds, Index heads, Index width) {
  const ScoreRow row(positions, block);
  const Index head = blockIdx.y;
  const Index at_out = ((block.first + row.entry) * heads + head) * width;
  float product = 0;  // the sum of p dp over the keys
  for (Index i = threadIdx.x; i < width; i += blockDim.x) {
    product += static_cast<float>(dout[at_out + i]) * static_cast<float>(out[at_out + i]);
  }
  product = block_reduce(product);
  const float lse = log_sum_exp[(block.first + row.entry) * heads + head];
  for (Index j = threadIdx.x; j < block.keys(); j += blockDim.x) {
    float probability = 0;
    float gradient = 0;
    if (row.sees(j)) {
      const float score = scores[row.at + j];
      const float t = cap == 0 ? 0.0F : tanhf(score / cap);
      probability = expf((cap == 0 ? score : cap * t) - lse);
      gradient = probability * (dp[row.at + j] - product) * (1.0F - t * t);
    }
    p[row.at + j] = probability;
    ds[row.at + j] = gradient;
  }
}

/// Columns [column, column + cols) of rows from `first` of dqkv = the sums, rounded; one block a row.
template <class T>
__global__ void store_columns(const float* sums, T* dqkv, Index first, Index columns, Index column, Index cols) {
  const Index row = blockIdx.x;
  for (Index i = threadIdx.x; i < cols; i += blockDim.x) dqkv[(first + row) * columns + column + i] = sums[row * cols + i];
}

// ------------------------------------------------------------------------------------------------------------------------------ the cache

/// One block a fresh row and kv head.
template <class T>
__global__ void append_entry(const T* qkv, const std::int32_t* before, Index fresh, Index columns, Index heads, Index kv_heads, Index width,
                             Index capacity, T* keys, T* values) {
  const Index sequence = blockIdx.x / fresh;
  const Index head = blockIdx.y;
  const Index entry = before[sequence] + blockIdx.x % fresh;
  require(before[sequence] >= 0 && entry < capacity, "a cache has no room for the rows that were appended");
  const T* const row = qkv + static_cast<Index>(blockIdx.x) * columns;
  const Index to = ((sequence * kv_heads + head) * capacity + entry) * width;
  for (Index i = threadIdx.x; i < width; i += blockDim.x) {
    keys[to + i] = row[(heads + head) * width + i];
    values[to + i] = row[(heads + kv_heads + head) * width + i];
  }
}

constexpr Index kWidest = 256;  // of a head that is cached
constexpr int kReaders = kBlockThreads / kWarp;

/// What the warps of a block found, each on every eighth entry.
struct Readings {
  float top[kReaders], sum[kReaders];
  float mixed[kReaders][kWidest];
};

/// One block a fresh row and query head. Each warp keeps the largest score so far, and sums that it scales anew when that grows (Milakov
/// and Gimelshein 2018); the warps are put together in their order.
template <class T>
__global__ void attend_to_cache(const T* qkv, const T* keys, const T* values, const std::int32_t* before, Index fresh, Index columns,
                                Index heads, Index kv_heads, Index width, Index capacity, float scale, float cap, T* out) {
  constexpr int kEach = static_cast<int>(kWidest) / kWarp;
  auto& readings = shared<Readings>();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int reader = static_cast<int>(threadIdx.x) / kWarp;
  const Index sequence = blockIdx.x / fresh;
  const Index head = blockIdx.y;
  const Index entries = before[sequence] + blockIdx.x % fresh + 1;
  require(before[sequence] >= 0 && entries <= capacity, "a cache holds fewer entries than it is said to");
  const Index start = (sequence * kv_heads + head * kv_heads / heads) * capacity * width;
  const T* const q = qkv + static_cast<Index>(blockIdx.x) * columns + head * width;
  float query[kEach];
  float mixed[kEach] = {};
#pragma unroll
  for (int i = 0; i < kEach; ++i) query[i] = lane + i * kWarp < width ? scale * static_cast<float>(q[lane + i * kWarp]) : 0.0F;
  float top = -INFINITY;
  float sum = 0;
  for (Index entry = reader; entry < entries; entry += kReaders) {
    float score = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (lane + i * kWarp < width) score += query[i] * static_cast<float>(keys[start + entry * width + lane + i * kWarp]);
    }
    score = capped(warp_reduce(score), cap);
    const float higher = Max{}(top, score);
    const float keep = expf(top - higher);
    const float weight = expf(score - higher);
    sum = sum * keep + weight;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (lane + i * kWarp < width)
        mixed[i] = mixed[i] * keep + weight * static_cast<float>(values[start + entry * width + lane + i * kWarp]);
    }
    top = higher;
  }
  if (lane == 0) {
    readings.top[reader] = top;
    readings.sum[reader] = sum;
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) readings.mixed[reader][lane + i * kWarp] = mixed[i];
  sync_block();
  float highest = -INFINITY;
  for (int other = 0; other < kReaders; ++other) highest = Max{}(highest, readings.top[other]);
  for (Index i = threadIdx.x; i < width; i += blockDim.x) {
    float total = 0;
    float value = 0;
    for (int other = 0; other < kReaders; ++other) {
      const float part = readings.sum[other] == 0 ? 0.0F : expf(readings.top[other] - highest);  // a warp may have had no entry
      total += part * readings.sum[other];
      value += part * readings.mixed[other][i];
    }
    out[(static_cast<Index>(blockIdx.x) * heads + head) * width + i] = value / total;
  }
}

}  // namespace

void rotary(Cuda, Stream& stream, const Tensor& qkv, const Tensor& positions, Heads heads, float base, float direction) {
  const Index half = heads.width / 2;
  const Tensor& rates = stream.kept<RotaryRates>().of(stream, base, half);
  with_float_type(qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(turn_pairs<T>, blocks_for(qkv.rows() * half), kBlockThreads, stream, on_device<T>(qkv), on_device<std::int32_t>(positions),
           on_device<float>(rates), direction, qkv.rows(), heads.columns(), heads.heads + heads.kv_heads, heads.width);
  });
}

void attention(Cuda, Stream& stream, const Tensor& qkv, const Tensor& positions, const AttentionSettings& settings, const Tensor& out,
               const Tensor& lse) {
  const Index heads = settings.heads.heads;
  const Index most = heads * std::min(kBlockRows, settings.length) * settings.length;
  const Tensor scores(stream, {most});
  const Tensor p = qkv.dtype() == DType::f32 ? scores : Tensor(stream, {most}, qkv.dtype());
  const cublasHandle_t handle = stream.kept<Cublas>().on(stream);
  with_float_type(qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    for_each_block(qkv.rows(), settings.length, [&](const QueryBlock& block) {
      BlockProducts products{qkv, settings, block};
      products.against_keys(handle, qkv, products.key_column(), settings.scale, scores);
      launch(probabilities<T>, dim3(static_cast<unsigned>(block.rows), static_cast<unsigned>(heads)), row_threads(block.keys()), stream,
             on_device<float>(scores), on_device<std::int32_t>(positions), block, settings.cap, on_device<T>(p), on_device<float>(lse),
             heads);
      products.with_keys(handle, p, products.value_column(), 1, out);
    });
  });
}

void attention_backward(Cuda, Stream& stream, const Tensor& dout, const Tensor& qkv, const Tensor& positions, const AttentionOut& forward,
                        const AttentionSettings& settings, const Tensor& dqkv) {
  const Index heads = settings.heads.heads;
  const Index width = settings.heads.width;
  const Index shared_columns = settings.heads.kv_heads * width;
  const Index length = settings.length;
  const Index most = heads * std::min(kBlockRows, length) * length;
  const bool narrow = qkv.dtype() == DType::bf16;
  const Tensor scores(stream, {most});
  const Tensor dp(stream, {most});
  const Tensor p = narrow ? Tensor(stream, {most}, DType::bf16) : scores;
  const Tensor ds = narrow ? Tensor(stream, {most}, DType::bf16) : dp;
  const Tensor dkeys(stream, {length, shared_columns});
  const Tensor dvalues(stream, {length, shared_columns});
  const cublasHandle_t handle = stream.kept<Cublas>().on(stream);
  with_float_type(qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    for_each_block(qkv.rows(), length, [&](const QueryBlock& block) {
      if (block.row == 0) {
        stream.set(dkeys.raw(), 0, dkeys.bytes());
        stream.set(dvalues.raw(), 0, dvalues.bytes());
      }
      BlockProducts products{qkv, settings, block};
      products.against_keys(handle, qkv, products.key_column(), settings.scale, scores);
      products.against_keys(handle, dout, products.value_column(), 1, dp);
      launch(score_gradients<T>, dim3(static_cast<unsigned>(block.rows), static_cast<unsigned>(heads)), row_threads(block.keys()), stream,
             on_device<float>(scores), on_device<float>(dp), on_device<std::int32_t>(positions), block, settings.cap,
             on_device<float>(forward.log_sum_exp), on_device<T>(dout), on_device<T>(forward.out), on_device<T>(p), on_device<T>(ds), heads,
             width);
      products.onto_keys(handle, p, dout, 1, dvalues);
      products.onto_keys(handle, ds, qkv, settings.scale, dkeys);
      products.with_keys(handle, ds, products.key_column(), settings.scale, dqkv);
      if (block.keys() < length) return;
      for (const auto& [sums, column] : {std::pair{&dkeys, products.key_column()}, std::pair{&dvalues, products.value_column()}}) {
        launch(store_columns<T>, blocks_for(length, 1), row_threads(shared_columns), stream, on_device<float>(*sums), on_device<T>(dqkv),
               block.first, qkv.cols(), column, shared_columns);
      }
    });
  });
}

void attention_cached(Cuda, Stream& stream, const Tensor& qkv, const Tensor& keys, const Tensor& values, const Tensor& before,
                      const AttentionSettings& settings, const Tensor& out) {
  const Heads& heads = settings.heads;
  check(heads.width <= kWidest, "on a GPU heads that are cached have at most ", kWidest, " values, these have ", heads.width);
  const Index fresh = qkv.rows() / keys.shape()[0];
  with_float_type(qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(attend_to_cache<T>, dim3(blocks_for(qkv.rows(), 1), static_cast<unsigned>(heads.heads)), kBlockThreads, stream,
           on_device<T>(qkv), on_device<T>(keys), on_device<T>(values), on_device<std::int32_t>(before), fresh, heads.columns(),
           heads.heads, heads.kv_heads, heads.width, keys.shape()[2], settings.scale, settings.cap, on_device<T>(out));
  });
}

void cache_append(Cuda, Stream& stream, const Tensor& qkv, const Tensor& before, Heads heads, Index fresh, const Tensor& keys,
                  const Tensor& values) {
  with_float_type(qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(append_entry<T>, dim3(blocks_for(qkv.rows(), 1), static_cast<unsigned>(heads.kv_heads)), row_threads(heads.width), stream,
           on_device<T>(qkv), on_device<std::int32_t>(before), fresh, heads.columns(), heads.heads, heads.kv_heads, heads.width,
           keys.shape()[2], on_device<T>(keys), on_device<T>(values));
  });
}

}  // namespace yard::ops::kernels
