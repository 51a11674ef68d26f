#include "core/ops/gating.h"

#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "core/ops/loops.h"
#include "core/ops/vector_math.h"

namespace yard::ops {
namespace {

void check_scores(const Tensor& scores, const char* what) {
  check(scores.dtype() == DType::f32 && scores.shape().rank() == 2 && scores.cols() > 0, what,
        " takes f32 rows of at least one score, got ", name_of(scores.dtype()), " ", scores.shape());
}

}  // namespace

SoftmaxOut softmax(Stream& stream, const Tensor& logits) {
  check_scores(logits, "softmax");
  SoftmaxOut result{Tensor(stream, logits.shape()), Tensor(stream, {logits.length()})};
  dispatch(stream.device(), [&](auto on) { kernels::softmax(on, stream, logits, result.p, result.log_sum_exp); });
  return result;
}

Tensor softmax_backward(Stream& stream, const Tensor& dp, const Tensor& p) {
  check_scores(dp, "softmax_backward");
  check_scores(p, "softmax_backward");
  check(dp.shape() == p.shape(), "the gradient of a softmax has its shape, got ", dp.shape(), " for ", p.shape());
  Tensor dlogits(stream, p.shape());
  dispatch(stream.device(), [&](auto on) { kernels::softmax_backward(on, stream, dp, p, dlogits); });
  return dlogits;
}

TopK top_k(Stream& stream, const Tensor& scores, Index k) {
  check_scores(scores, "top_k");
  check(k >= 1 && k <= scores.cols(), "top_k chooses between 1 and all ", scores.cols(), " scores of a row, not ", k);
  TopK result{Tensor(stream, {scores.length(), k}, DType::i32), Tensor(stream, {scores.length(), k}), Tensor(stream, {scores.length()})};
  dispatch(stream.device(), [&](auto on) { kernels::top_k(on, stream, scores, result.index, result.value, result.gap); });
  return result;
}

void count_experts(Stream& stream, const Tensor& expert, const Tensor& counts) {
  check(expert.dtype() == DType::i32, "expert ids are i32, got ", name_of(expert.dtype()));
  check(counts.dtype() == DType::i64, "counts of experts are i64, got ", name_of(counts.dtype()));
  dispatch(stream.device(), [&](auto on) { kernels::count_experts(on, stream, expert, counts); });
}

namespace kernels {
namespace {

/// A whole number that orders the scores of a row: the larger score first, then the lower index; NaN below everything. No two are equal.
std::int64_t sort_key(float score, Index index) {
  const float positive_zero = score + 0.0F;  // -0 and 0 are a tie
  const auto bits = std::bit_cast<std::int32_t>(positive_zero);
  const std::int32_t ordered = bits ^ ((bits >> 31) & 0x7fffffff);
  const std::int64_t high = std::isnan(score) ? std::numeric_limits<std::int32_t>::min() : ordered;
  return high * (std::int64_t{1} << 32) + (0xffffffff - index);
}

std::int32_t index_of(std::int64_t key) { return static_cast<std::int32_t>(0xffffffff - (key & 0xffffffff)); }

/// Puts the `wanted` largest keys into `best`, in falling order. For few.
void select_by_insertion(const std::int64_t* keys, Index count, std::int64_t* best, Index wanted) {
  std::fill_n(best, wanted, std::numeric_limits<std::int64_t>::min());
  for (Index e = 0; e < count; ++e) {
    const std::int64_t key = keys[e];
    if (key <= best[wanted - 1]) continue;
    Index place = wanted - 1;
    for (; place > 0 && best[place - 1] < key; --place) best[place] = best[place - 1];
    best[place] = key;
  }
}

/// The same for many.
void select_by_sorting(std::int64_t* keys, Index count, std::int64_t* best, Index wanted) {
  if (wanted < count) std::nth_element(keys, keys + wanted - 1, keys + count, std::greater<>());
  std::sort(keys, keys + wanted, std::greater<>());
  std::copy_n(keys, wanted, best);
}

}  // namespace

void softmax(Cpu, Stream&, const Tensor& logits, const Tensor& p, const Tensor& log_sum_exp) {
  const Index experts = logits.cols();
  const float* in = logits.data<float>();
  float* out = p.data<float>();
  float* lse = log_sum_exp.data<float>();
  parallel_ranges(logits.length(), 32 + 16 * experts, 1, [=](Index first, Index last) {
    for (Index row = first; row < last; ++row) {
      const float* z = in + row * experts;
      float* y = out + row * experts;
      const float top = lane_max(experts, -std::numeric_limits<float>::infinity(), [=](Index e) { return z[e]; });
      const float sum = lane_sum(experts, [=](Index e) { return y[e] = vexp(z[e] - top); });
#pragma omp simd
      for (Index e = 0; e < experts; ++e) y[e] = y[e] / sum;
      lse[row] = top + std::log(sum);
    }
  });
}

void softmax_backward(Cpu, Stream&, const Tensor& dp, const Tensor& p, const Tensor& dlogits) {
  const Index experts = p.cols();
  const float* gradient = dp.data<float>();
  const float* value = p.data<float>();
  float* out = dlogits.data<float>();
  parallel_ranges(p.length(), 8 + 2 * experts, 1, [=](Index first, Index last) {
    for (Index row = first; row < last; ++row) {
      const float* d = gradient + row * experts;
      const float* y = value + row * experts;
      float* to = out + row * experts;
      const float mean = lane_sum(experts, [=](Index e) { return y[e] * d[e]; });
#pragma omp simd
      for (Index e = 0; e < experts; ++e) to[e] = y[e] * (d[e] - mean);
    }
  });
}

void top_k(Cpu, Stream&, const Tensor& scores, const Tensor& index, const Tensor& value, const Tensor& gap) {
  const Index experts = scores.cols();
  const Index k = index.cols();
  const Index wanted = std::min(k + 1, experts);  // one more, for the gap
  const float* in = scores.data<float>();
  std::int32_t* chosen = index.data<std::int32_t>();
  float* values = value.data<float>();
  float* gaps = gap.data<float>();
  parallel_ranges(scores.length(), 8 + 4 * experts, 1, [=](Index first, Index last) {
    std::vector<std::int64_t> keys(static_cast<std::size_t>(experts));
    std::vector<std::int64_t> best(static_cast<std::size_t>(wanted));
    for (Index row = first; row < last; ++row) {
      const float* s = in + row * experts;
      for (Index e = 0; e < experts; ++e) keys[static_cast<std::size_t>(e)] = sort_key(s[e], e);
      if (wanted <= 32) {
        select_by_insertion(keys.data(), experts, best.data(), wanted);
      } else {
        select_by_sorting(keys.data(), experts, best.data(), wanted);
      }
      for (Index j = 0; j < k; ++j) {
        const std::int32_t e = index_of(best[static_cast<std::size_t>(j)]);
        chosen[row * k + j] = e;
        values[row * k + j] = s[e];
      }
      if (k == experts) {
        gaps[row] = std::numeric_limits<float>::infinity();
      } else {
        const float kth = values[row * k + k - 1];
        const float next = s[index_of(best[static_cast<std::size_t>(k)])];
        gaps[row] = kth == next ? 0.0F : kth - next;  // two infinities are a tie as well
      }
    }
  });
}

void count_experts(Cpu, Stream&, const Tensor& expert, const Tensor& counts) {
  check_range(expert, -1, counts.elements(), "the expert of slot");
  std::int64_t* count = counts.data<std::int64_t>();
  for (const std::int32_t e : expert.values<std::int32_t>()) {
    if (e >= 0) ++count[e];
  }
}

}  // namespace kernels

}  // namespace yard::ops
