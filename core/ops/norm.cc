#include "core/ops/norm.h"

#include <cmath>
#include <type_traits>
#include <vector>

#include "core/ops/loops.h"

namespace yard::ops {
namespace {

void check_norm(const Tensor& x, const Tensor& weight) {
  check(weight.dtype() == DType::f32 && weight.elements() == x.cols(), "a norm of ", x.cols(),
        " columns needs a weight of as many f32, got ", name_of(weight.dtype()), " ", weight.shape());
}

}  // namespace

RmsNormOut rms_norm(Stream& stream, const Tensor& x, const Tensor& weight, float epsilon, DType out) {
  check_norm(x, weight);
  RmsNormOut result{Tensor(stream, x.shape(), out), Tensor(stream, {x.rows()})};
  dispatch(stream.device(), [&](auto on) { kernels::rms_norm(on, stream, x, weight, epsilon, result.y, result.rstd); });
  return result;
}

Tensor rms_norm_backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd, const Tensor& dweight,
                         const Tensor& residual) {
  check_norm(x, weight);
  check(dy.shape() == x.shape(), "the gradient of a norm has the shape of its input, got ", dy.shape(), " for ", x.shape());
  check(rstd.dtype() == DType::f32 && rstd.elements() == x.rows(), "a norm of ", x.rows(), " rows needs as many f32 rstd, got ",
        name_of(rstd.dtype()), " ", rstd.shape());
  check(dweight.dtype() == DType::f32 && dweight.elements() == x.cols(), "the weight's gradient must be ", x.cols(), " f32, got ",
        name_of(dweight.dtype()), " ", dweight.shape());
  check(!residual.defined() || residual.shape() == x.shape(), "the residual's gradient has the shape of the input, got ", residual.shape(),
        " for ", x.shape());
  Tensor dx(stream, x.shape(), x.dtype());
  dispatch(stream.device(), [&](auto on) { kernels::rms_norm_backward(on, stream, dy, x, weight, rstd, residual, dx, dweight); });
  return dx;
}

namespace kernels {
namespace {

/// Rows whose weight gradients one thread adds up in order; the blocks' sums are then added in order: a tree that only N decides.
constexpr Index kBlockRows = 32;

/// Stands for a residual that is not there.
struct Nothing {
  operator float() const { return 0; }  // NOLINT(google-explicit-constructor): reads like a value
};

template <class X, class Y>
void forward_rows(const X* x, const float* weight, float epsilon, Y* y, float* rstd, Index first, Index last, Index cols) {
  for (Index row = first; row < last; ++row) {
    const X* in = x + row * cols;
    Y* out = y + row * cols;
    const float mean =
        lane_sum(cols, [in](Index c) { return static_cast<float>(in[c]) * static_cast<float>(in[c]); }) / static_cast<float>(cols);
    const float factor = 1.0F / std::sqrt(mean + epsilon);
    rstd[row] = factor;
#pragma omp simd
    for (Index c = 0; c < cols; ++c) {
      out[c] = stored_in<Y>(static_cast<float>(in[c]) * factor) * weight[c];
    }
  }
}

/// dx of one row; adds its part of the weight's gradient to `sum`.
template <class Dy, class X, class R>
void backward_row(const Dy* dy, const X* x, const float* weight, float rstd, const R* residual, X* dx, float* sum, Index cols) {
  const float mean = lane_sum(cols, [=](Index c) { return static_cast<float>(dy[c]) * weight[c] * static_cast<float>(x[c]); }) /
                     static_cast<float>(cols) * rstd;
#pragma omp simd
  for (Index c = 0; c < cols; ++c) {
    const float normed = static_cast<float>(x[c]) * rstd;
    const float gradient = static_cast<float>(dy[c]);
    float result = rstd * (gradient * weight[c] - normed * mean);
    if constexpr (!std::is_same_v<R, Nothing>) result += static_cast<float>(residual[c]);
    sum[c] += gradient * normed;
    dx[c] = result;
  }
}

}  // namespace

void rms_norm(Cpu, Stream&, const Tensor& x, const Tensor& weight, float epsilon, const Tensor& y, const Tensor& rstd) {
  with_float_type(x.dtype(), [&](auto in) {
    with_float_type(y.dtype(), [&](auto out) {
      const auto* from = x.data<decltype(in)>();
      auto* to = y.data<decltype(out)>();
      parallel_ranges(x.rows(), 4 * x.cols(), 1, [&](Index first, Index last) {
        forward_rows(from, weight.data<float>(), epsilon, to, rstd.data<float>(), first, last, x.cols());
      });
    });
  });
}

void rms_norm_backward(Cpu, Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd,
                       const Tensor& residual, const Tensor& dx, const Tensor& dweight) {
  const Index rows = x.rows();
  const Index cols = x.cols();
  if (rows == 0) return;
  const Index blocks = (rows + kBlockRows - 1) / kBlockRows;
  const Tensor partial(stream, {blocks, cols});
  float* sums = partial.data<float>();
  const auto run = [&]<class Dy, class X, class R>(const Dy* gradient, const X* in, const R* other) {
    X* out = dx.data<X>();
    parallel_ranges(blocks, kBlockRows * 8 * cols, 1, [&](Index first, Index last) {
      for (Index block = first; block < last; ++block) {
        float* sum = sums + block * cols;
        std::fill_n(sum, cols, 0.0F);
        for (Index row = block * kBlockRows; row < std::min(rows, (block + 1) * kBlockRows); ++row) {
          const Index at = row * cols;
          backward_row(gradient + at, in + at, weight.data<float>(), rstd.data<float>()[row], other == nullptr ? other : other + at,
                       out + at, sum, cols);
        }
      }
    });
  };
  with_float_type(dy.dtype(), [&](auto gradient) {
    with_float_type(x.dtype(), [&](auto in) {
      const auto* d = dy.data<decltype(gradient)>();
      const auto* v = x.data<decltype(in)>();
      if (!residual.defined()) return run(d, v, static_cast<const Nothing*>(nullptr));
      with_float_type(residual.dtype(), [&](auto other) { run(d, v, residual.data<decltype(other)>()); });
    });
  });
  float* into = dweight.data<float>();
  parallel_ranges(cols, blocks, 64, [&](Index first, Index last) {
    std::vector<double> total(static_cast<std::size_t>(last - first));
    for (Index block = 0; block < blocks; ++block) {
      const float* sum = sums + block * cols + first;
#pragma omp simd
      for (Index c = 0; c < last - first; ++c) total[static_cast<std::size_t>(c)] += sum[c];
    }
    for (Index c = first; c < last; ++c) into[c] += static_cast<float>(total[static_cast<std::size_t>(c - first)]);
  });
}

}  // namespace kernels

}  // namespace yard::ops
