#include "core/ops/gating.h"

#include <cmath>
#include <limits>

#include "core/ops/gpu.h"

namespace yard::ops::kernels {
namespace {

/// One block a row.
__global__ void softmax_row(const float* logits, float* p, float* log_sum_exp, Index experts) {
  const float* z = logits + static_cast<Index>(blockIdx.x) * experts;
  float* y = p + static_cast<Index>(blockIdx.x) * experts;
  float top = -INFINITY;
  for (Index e = threadIdx.x; e < experts; e += blockDim.x) top = Max{}(top, z[e]);  // a NaN is passed over
  top = block_reduce(top, Max{});
  float sum = 0;
  for (Index e = threadIdx.x; e < experts; e += blockDim.x) {
    y[e] = expf(z[e] - top);
    sum += y[e];
  }
  sum = block_reduce(sum);
  for (Index e = threadIdx.x; e < experts; e += blockDim.x) y[e] = y[e] / sum;
  if (threadIdx.x == 0) log_sum_exp[blockIdx.x] = top + logf(sum);
}

/// One block a row.
__global__ void softmax_row_backward(const float* dp, const float* p, float* dlogits, Index experts) {
  const Index at = static_cast<Index>(blockIdx.x) * experts;
  float mean = 0;
  for (Index e = threadIdx.x; e < experts; e += blockDim.x) mean += p[at + e] * dp[at + e];
  mean = block_reduce(mean);
  for (Index e = threadIdx.x; e < experts; e += blockDim.x) dlogits[at + e] = p[at + e] * (dp[at + e] - mean);
}

/// A whole number that orders the scores of a row: the larger score first, then the lower index; NaN below everything. No two are equal.
__device__ __forceinline__ std::int64_t sort_key(float score, Index index) {
  const auto bits = std::bit_cast<std::int32_t>(score + 0.0F);  // -0 and 0 are a tie
  const std::int32_t ordered = bits ^ ((bits >> 31) & 0x7fffffff);
  const std::int64_t high = score != score ? std::numeric_limits<std::int32_t>::min() : ordered;
  return high * (std::int64_t{1} << 32) + (0xffffffff - index);
}

/// One warp a row: k + 1 times the largest of what is left.
__global__ void top_k_row(const float* scores, std::int32_t* index, float* value, float* gap, Index rows, Index experts, Index k) {
  const Index row = item() / kWarp;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* s = scores + row * experts;
  constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::min();
  std::int64_t last = std::numeric_limits<std::int64_t>::max();
  float kth = 0;
  for (Index j = 0; j < k + 1 && j < experts; ++j) {
    std::int64_t best = kNone;
    for (Index e = lane; e < experts; e += kWarp) {
      const std::int64_t key = sort_key(s[e], e);
      if (key < last && key > best) best = key;
    }
    last = warp_reduce(best, Max{});
    const Index found = 0xffffffff - (last & 0xffffffff);
    const float score = s[found];
    if (lane != 0) continue;
    if (j < k) {
      index[row * k + j] = static_cast<std::int32_t>(found);
      value[row * k + j] = score;
      kth = score;
    } else {
      gap[row] = kth == score ? 0.0F : kth - score;  // two infinities are a tie as well
    }
  }
  if (lane == 0 && k == experts) gap[row] = INFINITY;
}

/// counts[e] += the entries that are e; one block an expert.
__global__ void count_expert(const std::int32_t* expert, Index slots, std::int64_t* counts) {
  const auto mine = static_cast<std::int32_t>(blockIdx.x);
  std::int64_t found = 0;
  for (Index s = threadIdx.x; s < slots; s += blockDim.x) {
    require(expert[s] >= -1 && expert[s] < static_cast<std::int32_t>(gridDim.x), "the expert of a slot is none of the experts");
    found += expert[s] == mine ? 1 : 0;
  }
  found = block_reduce(found);
  if (threadIdx.x == 0) counts[mine] += found;
}

}  // namespace

void softmax(Cuda, Stream& stream, const Tensor& logits, const Tensor& p, const Tensor& log_sum_exp) {
  launch(softmax_row, blocks_for(logits.length(), 1), row_threads(logits.cols()), stream, on_device<float>(logits), on_device<float>(p),
         on_device<float>(log_sum_exp), logits.cols());
}

void softmax_backward(Cuda, Stream& stream, const Tensor& dp, const Tensor& p, const Tensor& dlogits) {
  launch(softmax_row_backward, blocks_for(p.length(), 1), row_threads(p.cols()), stream, on_device<float>(dp), on_device<float>(p),
         on_device<float>(dlogits), p.cols());
}

void top_k(Cuda, Stream& stream, const Tensor& scores, const Tensor& index, const Tensor& value, const Tensor& gap) {
  launch(top_k_row, blocks_for(scores.length() * kWarp), kBlockThreads, stream, on_device<float>(scores), on_device<std::int32_t>(index),
         on_device<float>(value), on_device<float>(gap), scores.length(), scores.cols(), index.cols());
}

void count_experts(Cuda, Stream& stream, const Tensor& expert, const Tensor& counts) {
  launch(count_expert, blocks_for(counts.elements(), 1), kBlockThreads, stream, on_device<std::int32_t>(expert), expert.elements(),
         on_device<std::int64_t>(counts));
}

}  // namespace yard::ops::kernels
