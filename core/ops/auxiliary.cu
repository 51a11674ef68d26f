#include "core/ops/auxiliary.h"

#include <algorithm>

#include "core/ops/gpu.h"

namespace yard::ops::kernels {
namespace {

__global__ void scale_counts(const std::int64_t* counts, double factor, float* y, Index count) {
  if (item() < count) y[item()] = static_cast<float>(factor * static_cast<double>(counts[item()]));
}

/// One warp per row.
__global__ void add_auxiliary(const float* p, const float* log_sum_exp, const std::int32_t* ids, const float* coefficient, Index each,
                              float z, float* dlogits, Index rows, Index experts) {
  const Index n = item() / kWarp;
  if (n >= rows || ids[n] < 0) return;
  const Index lane = threadIdx.x % kWarp;
  const float* scores = p + n * experts;
  float* dz = dlogits + n * experts;
  const float pull = 2 * z * log_sum_exp[n];
  if (coefficient == nullptr) {
    for (Index e = lane; e < experts; e += kWarp) dz[e] += pull * scores[e];
    return;
  }
  const float* c = coefficient + n / each * experts;
  float mean = 0;
  for (Index e = lane; e < experts; e += kWarp) mean += scores[e] * c[e];
  mean = warp_reduce(mean);
  for (Index e = lane; e < experts; e += kWarp) dz[e] += scores[e] * (c[e] - mean + pull);
}

/// One block per sequence.
__global__ void sum_sequence(const float* p, const std::int32_t* ids, Index length, Index experts, double* sums) {
  const Index first = static_cast<Index>(blockIdx.x) * length;
  double* out = sums + static_cast<Index>(blockIdx.x) * (1 + experts);
  double tokens = 0;
  for (Index n = first + threadIdx.x; n < first + length; n += blockDim.x) tokens += ids[n] < 0 ? 0 : 1;
  tokens = block_reduce(tokens);
  if (threadIdx.x == 0) out[0] = tokens;
  for (Index e = threadIdx.x; e < experts; e += blockDim.x) {
    double sum = 0;
    for (Index n = first; n < first + length; ++n) {
      if (ids[n] >= 0) sum += static_cast<double>(p[n * experts + e]);
    }
    out[1 + e] = sum;
  }
}

/// One block.
__global__ void add_batch_balance(const double* sums, const std::int64_t* counts, Index sequences, Index experts, double factor,
                                  double* into) {
  double loss = 0;
  for (Index e = threadIdx.x; e < experts; e += blockDim.x) {
    double sum = 0;
    for (Index s = 0; s < sequences; ++s) sum += sums[s * (1 + experts) + 1 + e];
    loss += static_cast<double>(counts[e]) * sum;
  }
  loss = block_reduce(loss);
  if (threadIdx.x == 0) into[0] += loss * factor;
}

/// One block, which processes one sequence after another.
__global__ void add_sequence_balance(const double* sums, const std::int64_t* counts, Index sequences, Index experts, double choices,
                                     double everywhere, double* into) {
  double loss = 0;
  for (Index s = 0; s < sequences; ++s) {
    const double* of = sums + s * (1 + experts);
    double balance = 0;
    for (Index e = threadIdx.x; e < experts; e += blockDim.x) balance += static_cast<double>(counts[s * experts + e]) * of[1 + e];
    balance = block_reduce(balance);
    if (of[0] > 0) loss += balance * static_cast<double>(experts) / (choices * of[0] * of[0]);
  }
  if (threadIdx.x == 0) into[0] += loss / everywhere;
}

/// squares[sequence] = the sum over its tokens; one block per sequence.
__global__ void square_sequence(const float* log_sum_exp, const std::int32_t* ids, Index length, double* squares) {
  const Index first = static_cast<Index>(blockIdx.x) * length;
  double sum = 0;
  for (Index n = first + threadIdx.x; n < first + length; n += blockDim.x) {
    const double value = ids[n] < 0 ? 0.0 : static_cast<double>(log_sum_exp[n]);
    sum += value * value;
  }
  sum = block_reduce(sum);
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

/// One block.
__global__ void add_mean(const double* values, Index count, double divisor, double* into) {
  double sum = 0;
  for (Index i = threadIdx.x; i < count; i += blockDim.x) sum += values[i];
  sum = block_reduce(sum);
  if (threadIdx.x == 0) into[0] += sum / divisor;
}

template <class T>
__global__ void add_in_f64(const T* values, double* into, Index count) {
  if (item() < count) into[item()] += static_cast<double>(values[item()]);
}

}  // namespace

void scaled_counts(Cuda, Stream& stream, const Tensor& counts, double factor, const Tensor& y) {
  launch(scale_counts, blocks_for(counts.elements()), kBlockThreads, stream, on_device<std::int64_t>(counts), factor, on_device<float>(y),
         counts.elements());
}

void add_auxiliary_gradient(Cuda, Stream& stream, const Tensor& p, const Tensor& log_sum_exp, const Tensor& ids, const Tensor& coefficient,
                            float z, const Tensor& dlogits) {
  const Index each = coefficient.defined() ? p.rows() / std::max<Index>(1, coefficient.rows()) : 1;
  launch(add_auxiliary, blocks_for(p.rows() * kWarp), kBlockThreads, stream, on_device<float>(p), on_device<float>(log_sum_exp),
         on_device<std::int32_t>(ids), coefficient.defined() ? on_device<float>(coefficient) : nullptr, each, z, on_device<float>(dlogits),
         p.rows(), p.cols());
}

void sum_by_sequence(Cuda, Stream& stream, const Tensor& p, const Tensor& ids, Index length, const Tensor& sums) {
  launch(sum_sequence, blocks_for(sums.rows(), 1), kBlockThreads, stream, on_device<float>(p), on_device<std::int32_t>(ids), length,
         p.cols(), on_device<double>(sums));
}

void add_balance_loss(Cuda, Stream& stream, const Tensor& sums, const Tensor& counts, Index choices, double everywhere,
                      const Tensor& into) {
  const Index experts = counts.cols();
  const auto k = static_cast<double>(choices);
  if (counts.shape().rank() == 1) {
    launch(add_batch_balance, 1, kBlockThreads, stream, on_device<double>(sums), on_device<std::int64_t>(counts), sums.rows(), experts,
           static_cast<double>(experts) / (k * everywhere * everywhere), on_device<double>(into));
  } else {
    launch(add_sequence_balance, 1, kBlockThreads, stream, on_device<double>(sums), on_device<std::int64_t>(counts), sums.rows(), experts,
           k, everywhere, on_device<double>(into));
  }
}

void add_z_loss(Cuda, Stream& stream, const Tensor& log_sum_exp, const Tensor& ids, Index length, double tokens, const Tensor& into) {
  const Index sequences = log_sum_exp.elements() / length;
  const Tensor squares(stream, {sequences}, DType::f64);
  launch(square_sequence, blocks_for(sequences, 1), kBlockThreads, stream, on_device<float>(log_sum_exp), on_device<std::int32_t>(ids),
         length, on_device<double>(squares));
  launch(add_mean, 1, kBlockThreads, stream, on_device<double>(squares), sequences, tokens, on_device<double>(into));
}

void add_to_report(Cuda, Stream& stream, const Tensor& values, const Tensor& into) {
  if (values.dtype() == DType::f32) {
    launch(add_in_f64<float>, blocks_for(into.elements()), kBlockThreads, stream, on_device<float>(values), on_device<double>(into),
           into.elements());
  } else {
    launch(add_in_f64<std::int64_t>, blocks_for(into.elements()), kBlockThreads, stream, on_device<std::int64_t>(values),
           on_device<double>(into), into.elements());
  }
}

}  // namespace yard::ops::kernels
