#include "core/ops/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "core/ops/host/tasks.h"
#include "core/ops/vector_math.h"

namespace yard::ops {
namespace {

void check_targets(const Tensor& targets, Index rows) {
  check(targets.dtype() == DType::i32 && targets.elements() == rows, "the loss needs one i32 target a row, got ", name_of(targets.dtype()),
        " ", targets.shape(), " for ", rows, " rows");
}

}  // namespace

Index cross_entropy_block(Index vocabulary) noexcept {
  constexpr Index kValues = Index{2} << 20;  // 8 MiB of f32: small beside the activations, and large enough that products run at full speed
  return std::clamp<Index>(kValues / std::max<Index>(vocabulary, 1) / 64 * 64, 128, 1024);
}

void cross_entropy_rows(Stream& stream, const Tensor& z, const Tensor& targets, float logit_scale, float scale, const Tensor& nats,
                        const Tensor& dlogits) {
  check_targets(targets, z.rows());
  check(z.dtype() == DType::f32 && z.cols() > 0, "the loss needs f32 logits, got ", name_of(z.dtype()), " ", z.shape());
  check(nats.dtype() == DType::f32 && nats.elements() == z.rows(), "the losses of ", z.rows(), " rows do not fit ", nats.shape());
  check(!dlogits.defined() || dlogits.shape() == z.shape(), "the gradient of logits ", z.shape(), " does not fit ", dlogits.shape());
  if (z.rows() == 0) return;
  dispatch(stream.device(), [&](auto on) { kernels::cross_entropy_rows(on, stream, z, targets, logit_scale, scale, nats, dlogits); });
}

CrossEntropyOut linear_cross_entropy(Stream& stream, const Tensor& x, const Weights& weights, const Tensor& targets, float logit_scale,
                                     float scale, const Tensor& dweight, const std::function<void()>& poll) {
  check(weights.groups() == 1, "the output layer is one matrix, got ", weights.groups(), " groups");
  check_targets(targets, x.rows());
  const bool gradient = dweight.defined();
  CrossEntropyOut result{Tensor(stream, {x.rows()}), gradient ? Tensor(stream, {x.rows(), x.cols()}, x.dtype()) : Tensor()};
  const Index block = cross_entropy_block(weights.out());
  for (Index row = 0; row < x.rows(); row += block) {
    const Index rows = std::min(block, x.rows() - row);
    const Tensor part = x.row_range(row, rows);
    const Tensor z = matmul(stream, part, weights, {&rows, 1}, DType::f32, poll);
    const Tensor dlogits = !gradient ? Tensor() : x.dtype() == DType::f32 ? z : Tensor(stream, z.shape(), x.dtype());
    cross_entropy_rows(stream, z, targets.row_range(row, rows), logit_scale, scale, result.nats.row_range(row, rows), dlogits);
    if (gradient) {
      matmul_backward_weight(stream, dlogits, part, {&rows, 1}, dweight, poll);
      dispatch(stream.device(), [&](auto on) {
        kernels::matmul_backward_input(on, stream, dlogits, weights, {&rows, 1}, result.dx.row_range(row, rows), poll);
      });
    }
  }
  return result;
}

namespace kernels {
namespace {

/// Replaces logits by exp(logit - largest); returns the loss, and in `sum` the sum of what z holds now.
float exponentials(float* z, Index classes, Index target, float logit_scale, float& sum) {
  const float top = largest_f32(z, classes, logit_scale);
  const float behind = top - logit_scale * z[target];
  constexpr Index kPart = 512;  // parts of a sum keep its rounding error small in a large vocabulary
  float total = 0;
  for (Index first = 0; first < classes; first += kPart) {
    const Index end = std::min(classes, first + kPart);
    float part = 0;
#pragma omp simd reduction(+ : part)
    for (Index j = first; j < end; ++j) {
      z[j] = vexp(logit_scale * z[j] - top);
      part += z[j];
    }
    total += part;
  }
  sum = total;
  return std::log(total) + behind;
}

/// The gradient of slope * loss from what exponentials() left; d may be z.
template <class T>
void gradient_row(const float* z, Index classes, Index target, float slope, float sum, T* d) {
  const float each = slope / sum;
  const float at_target = slope * (z[target] / sum - 1);
#pragma omp simd
  for (Index j = 0; j < classes; ++j) d[j] = each * z[j];
  d[target] = at_target;
}

}  // namespace

void cross_entropy_rows(Cpu, Stream&, const Tensor& z, const Tensor& targets, float logit_scale, float scale, const Tensor& nats,
                        const Tensor& dlogits) {
  const Index classes = z.cols();
  const bool gradient = dlogits.defined();
  with_float_type(gradient ? dlogits.dtype() : DType::f32, [&](auto type) {
    using T = decltype(type);
    T* const gradients = gradient ? dlogits.data<T>() : nullptr;
    host::run_tasks(z.rows(), [&](Index row, int) {
      const std::int32_t target = targets.data<std::int32_t>()[row];
      check(target >= -1 && target < classes, "target ", target, " is beyond the vocabulary of ", classes);
      float* const logits = z.data<float>() + row * classes;
      float& loss = nats.data<float>()[row];
      if (target >= 0) {
        float sum = 0;
        loss = exponentials(logits, classes, target, logit_scale, sum);
        if (gradient) gradient_row(logits, classes, target, scale * logit_scale, sum, gradients + row * classes);
      } else {
        loss = 0;
        if (gradient) std::fill_n(gradients + row * classes, classes, T{});
      }
    });
  });
}

}  // namespace kernels

}  // namespace yard::ops
