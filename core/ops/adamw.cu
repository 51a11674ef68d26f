#include "core/ops/adamw.h"

#include <cmath>

#include "core/ops/gpu.h"

namespace yard::ops::kernels {
namespace {

/// The settings as every value of a step meets them.
struct Step {
  float keep1, keep2, take1, take2, step, unbias, shrink, epsilon, grad_scale;
};

template <class T>
__global__ void adamw_values(const float* grad, float* first, float* second, float* master, T* value, Step s, Index count) {
  const Index i = item();
  if (i >= count) return;
  const float gradient = grad[i] * s.grad_scale;
  const float mean = s.keep1 * first[i] + s.take1 * gradient;
  const float square = s.keep2 * second[i] + s.take2 * gradient * gradient;
  const float result = s.shrink * master[i] - s.step * mean / (sqrtf(square) * s.unbias + s.epsilon);
  first[i] = mean;
  second[i] = square;
  master[i] = result;
  value[i] = result;
}

}  // namespace

void adamw(Cuda, Stream& stream, const Tensor& grad, const Tensor& first, const Tensor& second, const Tensor& master, const Tensor& value,
           const AdamWSettings& settings) {
  const auto t = static_cast<double>(settings.t);
  const Step step{.keep1 = static_cast<float>(settings.beta1),
                  .keep2 = static_cast<float>(settings.beta2),
                  .take1 = static_cast<float>(1.0 - settings.beta1),
                  .take2 = static_cast<float>(1.0 - settings.beta2),
                  .step = static_cast<float>(settings.rate / (1.0 - std::pow(settings.beta1, t))),
                  .unbias = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(settings.beta2, t))),
                  .shrink = static_cast<float>(1.0 - settings.rate * settings.decay),
                  .epsilon = static_cast<float>(settings.epsilon),
                  .grad_scale = static_cast<float>(settings.grad_scale)};
  with_float_type(value.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(adamw_values<T>, blocks_for(value.elements()), kBlockThreads, stream, on_device<float>(grad), on_device<float>(first),
           on_device<float>(second), on_device<float>(master), on_device<T>(value), step, value.elements());
  });
}

}  // namespace yard::ops::kernels
