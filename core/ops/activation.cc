#include "core/ops/activation.h"

#include "core/ops/loops.h"
#include "core/ops/vector_math.h"

namespace yard::ops {
namespace {

/// Checks z and weight; returns the shape of h.
Shape check_activation(const Tensor& z, const Tensor& weight, bool gated) {
  check(z.shape().rank() == 2, "an activation takes a matrix of rows, got ", z.shape());
  check(!gated || z.cols() % 2 == 0, "a gated activation takes a gate and an up half, so an even width, got ", z.cols());
  check(!weight.defined() || (weight.dtype() == DType::f32 && weight.elements() == z.length()), "the weights of ", z.length(),
        " rows must be as many f32, got ", name_of(weight.dtype()), " ", weight.shape());
  return {z.length(), gated ? z.cols() / 2 : z.cols()};
}

}  // namespace

Tensor activate(Stream& stream, const Tensor& z, const Tensor& weight, Activation activation, bool gated) {
  Tensor h(stream, check_activation(z, weight, gated), z.dtype());
  dispatch(stream.device(), [&](auto on) { kernels::activate(on, stream, z, weight, activation, gated, h); });
  return h;
}

ActivateGradient activate_backward(Stream& stream, const Tensor& dh, const Tensor& z, const Tensor& weight, Activation activation,
                                   bool gated) {
  const Shape expected = check_activation(z, weight, gated);
  check(dh.shape() == expected, "the gradient of an activation of ", z.shape(), " must be ", expected, ", got ", dh.shape());
  ActivateGradient result;
  result.dz = z;
  if (weight.defined()) result.dweight = Tensor(stream, {z.length()});
  dispatch(stream.device(), [&](auto on) { kernels::activate_backward(on, stream, dh, z, weight, activation, gated, result.dweight); });
  return result;
}

namespace kernels {
namespace {

/// An activation's value and its slope, at one point.
struct Point {
  float value, slope;
};

struct Silu {
  static float value(float z) { return z * vsigmoid(z); }
  static Point point(float z) {
    const float s = vsigmoid(z);
    return {z * s, s + z * s * (1.0F - s)};
  }
};

/// 0.5 z (1 + tanh(u)) = z sigmoid(2u), u = sqrt(2/pi) (z + 0.044715 z^3): the right side loses no digits where z is negative.
struct GeluTanh {
  static constexpr float kTwice = 1.59576912F;  // 2 sqrt(2/pi)
  static constexpr float kCubic = 0.044715F;
  static float gate(float z) { return vsigmoid(kTwice * (z + kCubic * z * z * z)); }
  static float value(float z) { return z * gate(z); }
  static Point point(float z) {
    const float s = gate(z);
    return {z * s, s + z * s * (1.0F - s) * kTwice * (1.0F + 3.0F * kCubic * z * z)};
  }
};

struct Gelu {
  static float value(float z) { return z * vnormal_cdf(z); }
  static Point point(float z) {
    const float below = vnormal_cdf(z);
    return {z * below, below + z * 0.398942280F * vexp(-0.5F * z * z)};
  }
};

struct Relu {
  static float value(float z) { return z < 0.0F ? 0.0F : z; }
  static Point point(float z) { return {value(z), z > 0.0F ? 1.0F : 0.0F}; }
};

template <class Body>
void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::silu:
      return body(Silu{});
    case Activation::gelu_tanh:
      return body(GeluTanh{});
    case Activation::gelu:
      return body(Gelu{});
    case Activation::relu:
      return body(Relu{});
  }
}

constexpr Index kCost = 16;  // elementary operations of an activation

template <class Act, class T>
void forward_row(const T* z, float weight, bool gated, T* h, Index width) {
  if (!gated) {
#pragma omp simd
    for (Index c = 0; c < width; ++c) h[c] = weight * Act::value(z[c]);
    return;
  }
#pragma omp simd
  for (Index c = 0; c < width; ++c) h[c] = weight * Act::value(z[c]) * static_cast<float>(z[width + c]);
}

/// Turns z into dz, one row; returns <dh, act * up>.
template <class Act, class Dh, class T>
float backward_row(const Dh* dh, T* z, float weight, bool gated, Index width) {
  if (gated) {
    return lane_sum(width, [=](Index c) {
      const Point gate = Act::point(z[c]);
      const float up = z[width + c];
      const float gradient = dh[c];
      const float weighted = gradient * weight;
      z[c] = weighted * up * gate.slope;
      z[width + c] = weighted * gate.value;
      return gradient * gate.value * up;
    });
  }
  return lane_sum(width, [=](Index c) {
    const Point at = Act::point(z[c]);
    const float gradient = dh[c];
    z[c] = gradient * weight * at.slope;
    return gradient * at.value;
  });
}

}  // namespace

void activate(Cpu, Stream&, const Tensor& z, const Tensor& weight, Activation activation, bool gated, const Tensor& h) {
  const Index width = h.cols();
  const float* weights = weight.defined() ? weight.data<float>() : nullptr;
  with_activation(activation, [&](auto act) {
    with_float_type(z.dtype(), [&](auto type) {
      const auto* from = z.data<decltype(type)>();
      auto* to = h.data<decltype(type)>();
      parallel_ranges(h.rows(), kCost * width, 1, [=](Index first, Index last) {
        for (Index row = first; row < last; ++row) {
          const float factor = weights == nullptr ? 1.0F : weights[row];
          forward_row<decltype(act)>(from + row * (gated ? 2 * width : width), factor, gated, to + row * width, width);
        }
      });
    });
  });
}

void activate_backward(Cpu, Stream&, const Tensor& dh, const Tensor& z, const Tensor& weight, Activation activation, bool gated,
                       const Tensor& dweight) {
  const Index width = dh.cols();
  const Index stride = gated ? 2 * width : width;
  const float* weights = weight.defined() ? weight.data<float>() : nullptr;
  float* sums = dweight.defined() ? dweight.data<float>() : nullptr;
  with_activation(activation, [&](auto act) {
    with_float_type(dh.dtype(), [&](auto gradient_type) {
      with_float_type(z.dtype(), [&](auto type) {
        const auto* gradient = dh.data<decltype(gradient_type)>();
        auto* const rows = z.data<decltype(type)>();
        parallel_ranges(dh.rows(), 2 * kCost * width, 1, [=](Index first, Index last) {
          for (Index row = first; row < last; ++row) {
            const float factor = weights == nullptr ? 1.0F : weights[row];
            const float sum = backward_row<decltype(act)>(gradient + row * width, rows + row * stride, factor, gated, width);
            if (sums != nullptr) sums[row] = sum;
          }
        });
      });
    });
  });
}

}  // namespace kernels

}  // namespace yard::ops
