#include "core/ops/norm.h"

#include <cmath>

#include "core/ops/gpu.h"

namespace yard::ops::kernels {
namespace {

/// One block a row.
template <int kPack, class X, class Y>
__global__ void norm_row(const X* x, const float* weight, float epsilon, Y* y, float* rstd, Index cols) {
  const Index row = blockIdx.x;
  const Index packs = cols / kPack;
  float squares = 0;
  for (Index p = threadIdx.x; p < packs; p += blockDim.x) {
    const auto in = load_pack<kPack>(x + row * cols, p);
    for (int i = 0; i < kPack; ++i) {
      const float value = in.values[i];
      squares += value * value;
    }
  }
  const float factor = 1.0F / sqrtf(block_reduce(squares) / static_cast<float>(cols) + epsilon);
  if (threadIdx.x == 0) rstd[row] = factor;
  for (Index p = threadIdx.x; p < packs; p += blockDim.x) {
    const auto in = load_pack<kPack>(x + row * cols, p);
    const auto scale = load_pack<kPack>(weight, p);
    Pack<Y, kPack> out;
    for (int i = 0; i < kPack; ++i) out.values[i] = stored_in<Y>(static_cast<float>(in.values[i]) * factor) * scale.values[i];
    store_pack(y + row * cols, p, out);
  }
}

/// Stands for a residual that is not there.
struct Nothing {
  __device__ operator float() const { return 0; }  // NOLINT(google-explicit-constructor): reads like a value
};

/// dx of one row a block.
template <int kPack, class Dy, class X, class R>
__global__ void norm_row_backward(const Dy* dy, const X* x, const float* weight, const float* rstd, const R* residual, X* dx, Index cols) {
  const Index row = blockIdx.x;
  const Index packs = cols / kPack;
  const float factor = rstd[row];
  float product = 0;
  for (Index p = threadIdx.x; p < packs; p += blockDim.x) {
    const auto gradient = load_pack<kPack>(dy + row * cols, p);
    const auto in = load_pack<kPack>(x + row * cols, p);
    const auto scale = load_pack<kPack>(weight, p);
    for (int i = 0; i < kPack; ++i) {
      product += static_cast<float>(gradient.values[i]) * scale.values[i] * static_cast<float>(in.values[i]);
    }
  }
  const float mean = block_reduce(product) / static_cast<float>(cols) * factor;
  for (Index p = threadIdx.x; p < packs; p += blockDim.x) {
    const auto gradient = load_pack<kPack>(dy + row * cols, p);
    const auto in = load_pack<kPack>(x + row * cols, p);
    const auto scale = load_pack<kPack>(weight, p);
    Pack<R, kPack> other{};
    if constexpr (!std::is_same_v<R, Nothing>) other = load_pack<kPack>(residual + row * cols, p);
    Pack<X, kPack> out;
    for (int i = 0; i < kPack; ++i) {
      const float normed = static_cast<float>(in.values[i]) * factor;
      const float value = factor * (static_cast<float>(gradient.values[i]) * scale.values[i] - normed * mean);
      out.values[i] = value + static_cast<float>(other.values[i]);
    }
    store_pack(dx + row * cols, p, out);
  }
}

/// Rows whose parts of the weight's gradient one block adds up, in eight strands; the blocks' sums are then added in order.
constexpr Index kBlockRows = 256;
constexpr int kStrands = kBlockThreads / kWarp;

struct Strands {
  float sums[kStrands][kWarp];
};

/// partial[block, column] = the sum over the block's rows of dy * x * rstd; one warp's width of columns a block.
template <class Dy, class X>
__global__ void weight_gradient(const Dy* dy, const X* x, const float* rstd, float* partial, Index rows, Index cols) {
  auto& strands = shared<Strands>();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int strand = static_cast<int>(threadIdx.x) / kWarp;
  const Index column = static_cast<Index>(blockIdx.x) * kWarp + lane;
  const Index first = static_cast<Index>(blockIdx.y) * kBlockRows;
  const Index last = first + kBlockRows < rows ? first + kBlockRows : rows;
  float sum = 0;
  if (column < cols) {
    for (Index row = first + strand; row < last; row += kStrands) {
      sum += static_cast<float>(dy[row * cols + column]) * (static_cast<float>(x[row * cols + column]) * rstd[row]);
    }
  }
  strands.sums[strand][lane] = sum;
  sync_block();
  if (strand != 0 || column >= cols) return;
  for (int other = 1; other < kStrands; ++other) sum += strands.sums[other][lane];
  partial[blockIdx.y * cols + column] = sum;
}

/// dweight += the blocks' sums, in their order.
__global__ void add_partial(const float* partial, Index blocks, float* dweight, Index cols) {
  const Index column = item();
  if (column >= cols) return;
  double total = 0;
  for (Index block = 0; block < blocks; ++block) total += partial[block * cols + column];
  dweight[column] += static_cast<float>(total);
}

}  // namespace

void rms_norm(Cuda, Stream& stream, const Tensor& x, const Tensor& weight, float epsilon, const Tensor& y, const Tensor& rstd) {
  with_float_type(x.dtype(), [&](auto in) {
    with_float_type(y.dtype(), [&](auto out) {
      const auto body = [&](auto pack) {
        launch(norm_row<pack(), decltype(in), decltype(out)>, blocks_for(x.rows(), 1), row_threads(x.cols()), stream,
               on_device<decltype(in)>(x), on_device<float>(weight), epsilon, on_device<decltype(out)>(y), on_device<float>(rstd),
               x.cols());
      };
      with_packs(x.cols(), body, x, weight, y);
    });
  });
}

void rms_norm_backward(Cuda, Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rstd,
                       const Tensor& residual, const Tensor& dx, const Tensor& dweight) {
  const Index rows = x.rows();
  const Index cols = x.cols();
  if (rows == 0) return;
  const auto run = [&]<class Dy, class X, class R>(const Dy* gradient, const X* in, const R* other) {
    const auto body = [&](auto pack) {
      launch(norm_row_backward<pack(), Dy, X, R>, blocks_for(rows, 1), row_threads(cols), stream, gradient, in, on_device<float>(weight),
             on_device<float>(rstd), other, on_device<X>(dx), cols);
    };
    with_packs(cols, body, dy, x, weight, residual, dx);
    const unsigned blocks = blocks_for(rows, kBlockRows);
    const Tensor partial(stream, {blocks, cols});
    launch(weight_gradient<Dy, X>, dim3(blocks_for(cols, kWarp), blocks), kBlockThreads, stream, gradient, in, on_device<float>(rstd),
           on_device<float>(partial), rows, cols);
    launch(add_partial, blocks_for(cols), kBlockThreads, stream, on_device<float>(partial), Index{blocks}, on_device<float>(dweight), cols);
  };
  with_float_type(dy.dtype(), [&](auto gradient) {
    with_float_type(x.dtype(), [&](auto in) {
      const auto* d = on_device<decltype(gradient)>(dy);
      const auto* v = on_device<decltype(in)>(x);
      if (!residual.defined()) return run(d, v, static_cast<const Nothing*>(nullptr));
      with_float_type(residual.dtype(), [&](auto other) { run(d, v, on_device<decltype(other)>(residual)); });
    });
  });
}

}  // namespace yard::ops::kernels
