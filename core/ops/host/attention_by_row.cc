#include "core/ops/host/attention_by_row.h"

#include <algorithm>

#include "core/ops/host/layout.h"
#include "core/ops/host/tasks.h"
#include "core/ops/vector_math.h"

namespace yard::ops::host {
namespace {

/// The product of a query with each key.                             keys: (entries, width)  scores: (entries)
template <class T>
void multiply_keys(const float* query, const T* keys, Index entries, Index width, float* scores) {
  constexpr auto kWidth = static_cast<Index>(kLanes);
  for (Index j = 0; j < entries; ++j) {
    const T* const key = keys + j * width;
    Lanes lanes{};
    Index i = 0;
    for (; i + kWidth <= width; i += kWidth) lanes += load_lanes(query + i) * load_lanes(key + i);
    float sum = 0;
    for (Index lane = 0; lane < kWidth; ++lane) sum += lanes[lane];
    for (; i < width; ++i) sum += query[i] * static_cast<float>(key[i]);
    scores[j] = sum;
  }
}

/// One query row over `entries` keys and values. Scores are made of f32 queries that carry the scale.
/// Probabilities meet the values as T, as they do in products of many rows.                      scores: (entries)  wide: (width)
template <class T>
void attend_row(const T* query, const T* keys, const T* values, Index entries, const AttentionSettings& settings, float* scores,
                float* wide, T* out) {
  const Index width = settings.heads.width;
  copy_matrix(query, width, 1, width, wide, width, settings.scale);
  multiply_keys(wide, keys, entries, width, scores);
  if (settings.cap != 0) {
#pragma omp simd
    for (Index j = 0; j < entries; ++j) scores[j] = settings.cap * vtanh(scores[j] / settings.cap);
  }
  const float most = largest_f32(scores, entries);
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (Index j = 0; j < entries; ++j) {
    const float value = vexp(scores[j] - most);
    total += value;
    scores[j] = stored_in<T>(value);
  }
  std::fill(wide, wide + width, 0.0F);
  for (Index j = 0; j < entries; ++j) {
    const T* const value = values + j * width;
    const float weight = scores[j];
#pragma omp simd
    for (Index i = 0; i < width; ++i) wide[i] += weight * static_cast<float>(value[i]);
  }
#pragma omp simd
  for (Index i = 0; i < width; ++i) out[i] = wide[i] / total;
}

}  // namespace

void attention_by_row(Stream& stream, const Tensor& qkv, const Tensor& keys, const Tensor& values, const Tensor& before,
                      const AttentionSettings& settings, const Tensor& out) {
  const Heads& heads = settings.heads;
  const Index capacity = keys.shape()[2];
  const Index group = heads.heads / heads.kv_heads;  // query heads that read the same keys, one after another
  const Tensor scratch(stream, {team_size(), capacity + heads.width});
  with_float_type(qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    run_tasks(keys.shape()[0] * heads.kv_heads, [&](Index task, int thread) {
      const Index sequence = task / heads.kv_heads;
      const Index first = task % heads.kv_heads * group;
      const Index entries = before.data<std::int32_t>()[sequence] + 1;
      const Index cached = task * capacity * heads.width;
      float* const scores = scratch.data<float>() + thread * scratch.cols();
      for (Index head = first; head < first + group; ++head) {
        attend_row(qkv.data<T>() + sequence * heads.columns() + head * heads.width, keys.data<T>() + cached, values.data<T>() + cached,
                   entries, settings, scores, scores + capacity, out.data<T>() + (sequence * heads.heads + head) * heads.width);
      }
    });
  });
}

}  // namespace yard::ops::host
