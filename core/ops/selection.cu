#include "core/ops/selection.h"

#include <algorithm>
#include <cmath>

#include "core/ops/gpu.h"

namespace yard::ops::kernels {
namespace {

constexpr float kTiny = 1e-20F;  // keeps quotients finite where all scores are zero

__global__ void add_bias(const float* scores, const float* bias, float* y, Index count, Index experts) {
  if (item() < count) y[item()] = bias == nullptr ? scores[item()] : scores[item()] + bias[item() % experts];
}

/// of_group[row, group] = the sum of the two largest, or the only one; one thread per group.
__global__ void score_groups(const float* y, Index count, Index each, float* of_group) {
  if (item() >= count) return;
  const float* s = y + item() * each;
  float first = -INFINITY;
  float second = -INFINITY;
  for (Index i = 0; i < each; ++i) {
    if (s[i] > first) {
      second = first;
      first = s[i];
    } else if (s[i] > second) {
      second = s[i];
    }
  }
  of_group[item()] = each == 1 ? first : first + second;
}

/// One thread per row.
__global__ void keep_groups(const float* of_group, Index rows, Index groups, Index kept, Index each, float* y, float* margin) {
  const Index n = item();
  if (n >= rows) return;
  if (kept == groups) {
    margin[n] = INFINITY;
    return;
  }
  const float* score = of_group + n * groups;
  float worst_kept = 0;
  float best_left = 0;
  for (Index g = 0; g < groups; ++g) {
    Index ahead = 0;
    for (Index h = 0; h < groups; ++h) ahead += score[h] > score[g] || (score[h] == score[g] && h < g) ? 1 : 0;
    if (ahead == kept - 1) worst_kept = score[g];
    if (ahead == kept) best_left = score[g];
    if (ahead < kept) continue;
    for (Index i = 0; i < each; ++i) y[(n * groups + g) * each + i] = -INFINITY;
  }
  margin[n] = worst_kept == best_left ? 0.0F : worst_kept - best_left;  // two infinities also tie
}

__global__ void take_minimum(const float* values, float* into, Index count) {
  if (item() < count) into[item()] = values[item()] < into[item()] ? values[item()] : into[item()];
}

/// One warp per row; its first lane writes the few chosen scores after all others.
__global__ void chosen_backward(const float* dweight, const float* scores, const std::int32_t* choice, const float* weight, bool normalize,
                                float scale, float* dscores, Index rows, Index k, Index experts) {
  const Index n = item() / kWarp;
  if (n >= rows) return;
  const Index lane = threadIdx.x % kWarp;
  float* ds = dscores + n * experts;
  for (Index e = lane; e < experts; e += kWarp) ds[e] = 0;
  sync_warp();
  if (lane != 0) return;
  const std::int32_t* chosen = choice + n * k;
  float mean = 0;
  float total = 0;
  for (Index j = 0; j < k; ++j) {
    require(chosen[j] >= -1 && chosen[j] < experts, "a choice is none of the experts");
    if (chosen[j] < 0) continue;
    mean += weight[n * k + j] * dweight[n * k + j];
    total += scores[n * experts + chosen[j]];
  }
  const float factor = normalize ? scale / (total + kTiny) : scale;
  mean = normalize ? mean / scale : 0;
  for (Index j = 0; j < k; ++j) {
    if (chosen[j] >= 0) ds[chosen[j]] = factor * (dweight[n * k + j] - mean);
  }
}

/// One warp per row.
__global__ void normalize_row(const float* scores, float* q, float* sum, Index rows, Index experts) {
  const Index n = item() / kWarp;
  if (n >= rows) return;
  const Index lane = threadIdx.x % kWarp;
  float total = 0;
  for (Index e = lane; e < experts; e += kWarp) total += scores[n * experts + e];
  total = warp_reduce(total) + kTiny;
  for (Index e = lane; e < experts; e += kWarp) q[n * experts + e] = scores[n * experts + e] / total;
  if (lane == 0) sum[n] = total;
}

/// One warp per row.
__global__ void add_normalized(const float* q, const float* sum, const std::int32_t* ids, const float* coefficient, Index each,
                               float* dscores, Index rows, Index experts) {
  const Index n = item() / kWarp;
  if (n >= rows || ids[n] < 0) return;
  const Index lane = threadIdx.x % kWarp;
  const float* c = coefficient + n / each * experts;
  float mean = 0;
  for (Index e = lane; e < experts; e += kWarp) mean += q[n * experts + e] * c[e];
  mean = warp_reduce(mean);
  for (Index e = lane; e < experts; e += kWarp) dscores[n * experts + e] += (c[e] - mean) / sum[n];
}

/// One block.
__global__ void step_bias(const std::int64_t* counts, float rate, float* bias, Index experts) {
  std::int64_t total = 0;
  for (Index e = threadIdx.x; e < experts; e += blockDim.x) total += counts[e];
  total = block_reduce(total);
  for (Index e = threadIdx.x; e < experts; e += blockDim.x) {
    const std::int64_t lack = total - experts * counts[e];
    if (lack != 0) bias[e] += lack > 0 ? rate : -rate;
  }
}

}  // namespace

void limit_groups(Cuda, Stream& stream, const Tensor& scores, const Tensor& bias, Index groups, Index kept, const Tensor& y,
                  const Tensor& margin) {
  const Index experts = scores.cols();
  const Index rows = scores.length();
  launch(add_bias, blocks_for(scores.elements()), kBlockThreads, stream, on_device<float>(scores),
         bias.defined() ? on_device<float>(bias) : nullptr, on_device<float>(y), scores.elements(), experts);
  const Tensor of_group(stream, {rows, groups});
  launch(score_groups, blocks_for(rows * groups), kBlockThreads, stream, on_device<float>(y), rows * groups, experts / groups,
         on_device<float>(of_group));
  launch(keep_groups, blocks_for(rows), kBlockThreads, stream, on_device<float>(of_group), rows, groups, kept, experts / groups,
         on_device<float>(y), on_device<float>(margin));
}

void lower_to(Cuda, Stream& stream, const Tensor& values, const Tensor& into) {
  launch(take_minimum, blocks_for(into.elements()), kBlockThreads, stream, on_device<float>(values), on_device<float>(into),
         into.elements());
}

void choice_scores_backward(Cuda, Stream& stream, const Tensor& dweight, const Tensor& scores, const Tensor& choice, const Tensor& weight,
                            bool normalize, float scale, const Tensor& dscores) {
  launch(chosen_backward, blocks_for(choice.rows() * kWarp), kBlockThreads, stream, on_device<float>(dweight), on_device<float>(scores),
         on_device<std::int32_t>(choice), on_device<float>(weight), normalize, scale, on_device<float>(dscores), choice.rows(),
         choice.cols(), scores.cols());
}

void normalize_rows(Cuda, Stream& stream, const Tensor& scores, const Tensor& q, const Tensor& sum) {
  launch(normalize_row, blocks_for(scores.length() * kWarp), kBlockThreads, stream, on_device<float>(scores), on_device<float>(q),
         on_device<float>(sum), scores.length(), scores.cols());
}

void add_normalized_gradient(Cuda, Stream& stream, const Tensor& q, const Tensor& sum, const Tensor& ids, const Tensor& coefficient,
                             const Tensor& dscores) {
  const Index each = q.rows() / std::max<Index>(1, coefficient.rows());
  launch(add_normalized, blocks_for(q.rows() * kWarp), kBlockThreads, stream, on_device<float>(q), on_device<float>(sum),
         on_device<std::int32_t>(ids), on_device<float>(coefficient), each, on_device<float>(dscores), q.rows(), q.cols());
}

void step_selection_bias(Cuda, Stream& stream, const Tensor& counts, float rate, const Tensor& bias) {
  launch(step_bias, 1, kBlockThreads, stream, on_device<std::int64_t>(counts), rate, on_device<float>(bias), counts.elements());
}

}  // namespace yard::ops::kernels
