#include "core/ops/adamw.h"

#include <cmath>

#include "core/ops/loops.h"

namespace yard::ops {

void adamw(Stream& stream, const Tensor& grad, const Tensor& first, const Tensor& second, const Tensor& master, const Tensor& value,
           const AdamWSettings& settings) {
  check(settings.t >= 1, "the steps of AdamW count from 1, got ", settings.t);
  for (const Tensor& part : {grad, first, second, master}) {
    check(part.dtype() == DType::f32, "AdamW's gradient, moments and master values are f32, got ", name_of(part.dtype()));
    check(part.elements() == value.elements(), "AdamW's parts have one length, got ", part.elements(), " and ", value.elements());
  }
  dispatch(stream.device(), [&](auto on) { kernels::adamw(on, stream, grad, first, second, master, value, settings); });
}

namespace kernels {

void adamw(Cpu, Stream&, const Tensor& grad, const Tensor& first, const Tensor& second, const Tensor& master, const Tensor& value,
           const AdamWSettings& settings) {
  const auto t = static_cast<double>(settings.t);
  const auto keep1 = static_cast<float>(settings.beta1);
  const auto keep2 = static_cast<float>(settings.beta2);
  const auto take1 = static_cast<float>(1.0 - settings.beta1);
  const auto take2 = static_cast<float>(1.0 - settings.beta2);
  const auto step = static_cast<float>(settings.rate / (1.0 - std::pow(settings.beta1, t)));
  const auto unbias = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(settings.beta2, t)));
  const auto shrink = static_cast<float>(1.0 - settings.rate * settings.decay);
  const auto epsilon = static_cast<float>(settings.epsilon);
  const auto grad_scale = static_cast<float>(settings.grad_scale);
  const float* g = grad.data<float>();
  float* m = first.data<float>();
  float* v = second.data<float>();
  float* w = master.data<float>();
  with_float_type(value.dtype(), [&](auto type) {
    auto* out = value.data<decltype(type)>();
    parallel_ranges(value.elements(), 16, 64, [=](Index begin, Index end) {
#pragma omp simd
      for (Index i = begin; i < end; ++i) {
        const float gradient = g[i] * grad_scale;
        const float mean = keep1 * m[i] + take1 * gradient;
        const float square = keep2 * v[i] + take2 * gradient * gradient;
        const float result = shrink * w[i] - step * mean / (std::sqrt(square) * unbias + epsilon);
        m[i] = mean;
        v[i] = square;
        w[i] = result;
        out[i] = result;
      }
    });
  });
}

}  // namespace kernels

}  // namespace yard::ops
