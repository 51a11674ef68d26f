#include "core/ops/activation.h"

#include <cmath>

#include "core/ops/gpu.h"

namespace yard::ops::kernels {
namespace {

/// An activation's value and its slope, at one point.
struct Point {
  float value, slope;
};

__device__ __forceinline__ float sigmoid(float z) { return 1.0F / (1.0F + expf(-z)); }

struct Silu {
  static __device__ float value(float z) { return z * sigmoid(z); }
  static __device__ Point point(float z) {
    const float s = sigmoid(z);
    return {z * s, s + z * s * (1.0F - s)};
  }
};

/// 0.5 z (1 + tanh(u)) = z sigmoid(2u), u = sqrt(2/pi) (z + 0.044715 z^3)
struct GeluTanh {
  static constexpr float kTwice = 1.59576912F;  // 2 sqrt(2/pi)
  static constexpr float kCubic = 0.044715F;
  static __device__ float gate(float z) { return sigmoid(kTwice * (z + kCubic * z * z * z)); }
  static __device__ float value(float z) { return z * gate(z); }
  static __device__ Point point(float z) {
    const float s = gate(z);
    return {z * s, s + z * s * (1.0F - s) * kTwice * (1.0F + 3.0F * kCubic * z * z)};
  }
};

struct Gelu {
  static __device__ float below(float z) { return 0.5F * erfcf(-0.707106781F * z); }  // the normal distribution function
  static __device__ float value(float z) { return z * below(z); }
  static __device__ Point point(float z) {
    const float part = below(z);
    return {z * part, part + z * 0.398942280F * expf(-0.5F * z * z)};
  }
};

struct Relu {
  static __device__ float value(float z) { return z < 0.0F ? 0.0F : z; }
  static __device__ Point point(float z) { return {value(z), z > 0.0F ? 1.0F : 0.0F}; }
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

/// One block a row. The row of z holds its gates, and behind them what they let through when gated.
template <int kPack, class Act, class T>
__global__ void activate_row(const T* z, const float* weight, bool gated, T* h, Index width) {
  const Index row = blockIdx.x;
  const Index packs = width / kPack;
  const T* in = z + row * (gated ? 2 * width : width);
  const float factor = weight == nullptr ? 1.0F : weight[row];
  for (Index p = threadIdx.x; p < packs; p += blockDim.x) {
    const auto gate = load_pack<kPack>(in, p);
    Pack<T, kPack> out;
    if (gated) {
      const auto up = load_pack<kPack>(in + width, p);
      for (int i = 0; i < kPack; ++i) out.values[i] = factor * Act::value(gate.values[i]) * static_cast<float>(up.values[i]);
    } else {
      for (int i = 0; i < kPack; ++i) out.values[i] = factor * Act::value(gate.values[i]);
    }
    store_pack(h + row * width, p, out);
  }
}

/// z becomes dz; <dh, act * up> beside it. One row a block.
template <int kPack, class Act, class Dh, class T>
__global__ void activate_row_backward(const Dh* dh, T* z, const float* weight, bool gated, float* dweight, Index width) {
  const Index row = blockIdx.x;
  const Index packs = width / kPack;
  const Index stride = gated ? 2 * width : width;
  T* in = z + row * stride;
  const float factor = weight == nullptr ? 1.0F : weight[row];
  float sum = 0;
  for (Index p = threadIdx.x; p < packs; p += blockDim.x) {
    const auto gradient = load_pack<kPack>(dh + row * width, p);
    const auto gate = load_pack<kPack>(in, p);
    Pack<T, kPack> dgate;
    if (gated) {
      const auto up = load_pack<kPack>(in + width, p);
      Pack<T, kPack> dup;
      for (int i = 0; i < kPack; ++i) {
        const Point at = Act::point(gate.values[i]);
        const float through = up.values[i];
        const float d = gradient.values[i];
        dgate.values[i] = d * factor * through * at.slope;
        dup.values[i] = d * factor * at.value;
        sum += d * at.value * through;
      }
      store_pack(in + width, p, dup);
    } else {
      for (int i = 0; i < kPack; ++i) {
        const Point at = Act::point(gate.values[i]);
        const float d = gradient.values[i];
        dgate.values[i] = d * factor * at.slope;
        sum += d * at.value;
      }
    }
    store_pack(in, p, dgate);
  }
  if (dweight == nullptr) return;
  sum = block_reduce(sum);
  if (threadIdx.x == 0) dweight[row] = sum;
}

const float* factors(const Tensor& weight) { return weight.defined() ? on_device<float>(weight) : nullptr; }

}  // namespace

void activate(Cuda, Stream& stream, const Tensor& z, const Tensor& weight, Activation activation, bool gated, const Tensor& h) {
  with_activation(activation, [&](auto act) {
    with_float_type(z.dtype(), [&](auto type) {
      using T = decltype(type);
      const auto body = [&](auto pack) {
        launch(activate_row<pack(), decltype(act), T>, blocks_for(h.rows(), 1), row_threads(h.cols()), stream, on_device<T>(z),
               factors(weight), gated, on_device<T>(h), h.cols());
      };
      with_packs(h.cols(), body, z, h);
    });
  });
}

void activate_backward(Cuda, Stream& stream, const Tensor& dh, const Tensor& z, const Tensor& weight, Activation activation, bool gated,
                       const Tensor& dweight) {
  with_activation(activation, [&](auto act) {
    with_float_type(dh.dtype(), [&](auto gradient) {
      with_float_type(z.dtype(), [&](auto type) {
        using Dh = decltype(gradient);
        using T = decltype(type);
        const auto body = [&](auto pack) {
          launch(activate_row_backward<pack(), decltype(act), Dh, T>, blocks_for(dh.rows(), 1), row_threads(dh.cols()), stream,
                 on_device<Dh>(dh), on_device<T>(z), factors(weight), gated, dweight.defined() ? on_device<float>(dweight) : nullptr,
                 dh.cols());
        };
        with_packs(dh.cols(), body, dh, z);
      });
    });
  });
}

}  // namespace yard::ops::kernels
