#include "core/ops/cross_entropy.h"

#include <cmath>

#include "core/ops/gpu.h"

namespace yard::ops::kernels {
namespace {

/// One block a row. The gradient may be written over the logits: each thread reads what it replaces, and the target's was read before.
template <class T>
__global__ void loss_row(const float* z, const std::int32_t* targets, float logit_scale, float slope, float* nats, T* gradient,
                         Index classes) {
  const Index row = blockIdx.x;
  const float* logits = z + row * classes;
  const std::int32_t target = targets[row];
  require(target >= -1 && target < classes, "a target is beyond the vocabulary");
  if (target < 0) {
    if (threadIdx.x == 0) nats[row] = 0;
    if (gradient == nullptr) return;
    for (Index j = threadIdx.x; j < classes; j += blockDim.x) gradient[row * classes + j] = 0.0F;
    return;
  }
  const float at_target = logit_scale * logits[target];
  float top = -INFINITY;
  for (Index j = threadIdx.x; j < classes; j += blockDim.x) top = Max{}(top, logit_scale * logits[j]);
  top = block_reduce(top, Max{});
  float sum = 0;
  for (Index j = threadIdx.x; j < classes; j += blockDim.x) sum += expf(logit_scale * logits[j] - top);
  sum = block_reduce(sum);
  if (threadIdx.x == 0) nats[row] = logf(sum) + (top - at_target);
  if (gradient == nullptr) return;
  for (Index j = threadIdx.x; j < classes; j += blockDim.x) {
    const float p = expf(logit_scale * logits[j] - top) / sum;
    gradient[row * classes + j] = slope * (j == target ? p - 1.0F : p);
  }
}

}  // namespace

void cross_entropy_rows(Cuda, Stream& stream, const Tensor& z, const Tensor& targets, float logit_scale, float scale, const Tensor& nats,
                        const Tensor& dlogits) {
  with_float_type(dlogits.defined() ? dlogits.dtype() : DType::f32, [&](auto type) {
    using T = decltype(type);
    launch(loss_row<T>, blocks_for(z.rows(), 1), kBlockThreads, stream, on_device<float>(z), on_device<std::int32_t>(targets), logit_scale,
           scale * logit_scale, on_device<float>(nats), dlogits.defined() ? on_device<T>(dlogits) : nullptr, z.cols());
  });
}

}  // namespace yard::ops::kernels
