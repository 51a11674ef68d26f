#include "core/ops/elementwise.h"

#include "core/ops/gpu.h"
#include "core/random.h"

namespace yard::ops::kernels {
namespace {

/// Calls body(T{}) with float, BFloat16 or double.
template <class Body>
void with_any_float_type(DType dtype, const Body& body) {
  if (dtype == DType::f64) return body(double{});
  with_float_type(dtype, body);
}

template <class T>
__global__ void fill_values(T* x, T value, Index count) {
  if (item() < count) x[item()] = value;
}

template <int kPack, class A, class B, class Y>
__global__ void add_values(const A* a, const B* b, Y* y, Index packs) {
  if (item() >= packs) return;
  const auto left = load_pack<kPack>(a, item());
  const auto right = load_pack<kPack>(b, item());
  Pack<Y, kPack> out;
  for (int i = 0; i < kPack; ++i) out.values[i] = static_cast<float>(left.values[i]) + static_cast<float>(right.values[i]);
  store_pack(y, item(), out);
}

/// y = x * factor; Middle is the type of the product.
template <int kPack, class Middle, class X, class Y>
__global__ void scale_values(const X* x, Middle factor, Y* y, Index packs) {
  if (item() >= packs) return;
  const auto in = load_pack<kPack>(x, item());
  Pack<Y, kPack> out;
  for (int i = 0; i < kPack; ++i) out.values[i] = static_cast<Y>(static_cast<Middle>(in.values[i]) * factor);
  store_pack(y, item(), out);
}

/// One block per row.
template <int kPack, class X, class Y>
__global__ void scale_row(const X* x, const float* gate, Y* y, Index cols) {
  const Index row = blockIdx.x;
  const float factor = gate[row];
  for (Index p = threadIdx.x; p < cols / kPack; p += blockDim.x) {
    const auto in = load_pack<kPack>(x + row * cols, p);
    Pack<Y, kPack> out;
    for (int i = 0; i < kPack; ++i) out.values[i] = static_cast<float>(in.values[i]) * factor;
    store_pack(y + row * cols, p, out);
  }
}

/// One block per row.
template <int kPack, class A, class B>
__global__ void dot_row(const A* a, const B* b, float* y, Index cols) {
  const Index row = blockIdx.x;
  float sum = 0;
  for (Index p = threadIdx.x; p < cols / kPack; p += blockDim.x) {
    const auto left = load_pack<kPack>(a + row * cols, p);
    const auto right = load_pack<kPack>(b + row * cols, p);
    for (int i = 0; i < kPack; ++i) sum += static_cast<float>(left.values[i]) * static_cast<float>(right.values[i]);
  }
  sum = block_reduce(sum);
  if (threadIdx.x == 0) y[row] = sum;
}

/// Values that one block of a sum covers.
constexpr Index kBlockValues = 64 * kBlockThreads;

struct Itself {
  __device__ double operator()(double value) const { return value; }
};
struct Squared {
  __device__ double operator()(double value) const { return value * value; }
};

/// sums[block] = the sum of term(value) over the block's values, in an order that only their number decides.
template <class Term>
__global__ void sum_block(const float* x, Index count, double* sums) {
  const Index first = blockIdx.x * kBlockValues;
  const Index last = first + kBlockValues < count ? first + kBlockValues : count;
  double sum = 0;
  for (Index i = first + threadIdx.x; i < last; i += blockDim.x) sum += Term{}(static_cast<double>(x[i]));
  sum = block_reduce(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/// into += factor times the sum; one block.
__global__ void add_total(const double* sums, Index count, double factor, double* into) {
  double sum = 0;
  for (Index i = threadIdx.x; i < count; i += blockDim.x) sum += sums[i];
  sum = block_reduce(sum);
  if (threadIdx.x == 0) *into += factor * sum;
}

/// into += factor times the f64 sum of term(value).
template <class Term>
void add_sum_of(Stream& stream, const Tensor& x, double factor, const Tensor& into) {
  const Index blocks = blocks_for(x.elements(), kBlockValues);
  const Tensor partial(stream, {blocks}, DType::f64);
  launch(sum_block<Term>, static_cast<unsigned>(blocks), kBlockThreads, stream, on_device<float>(x), x.elements(),
         on_device<double>(partial));
  launch(add_total, 1, kBlockThreads, stream, on_device<double>(partial), blocks, factor, on_device<double>(into));
}

__global__ void set_one(std::int32_t* y) { *y = 1; }

/// y = 0 where an exponent is the highest one, which infinities and NaN have. Whoever finds one writes the same.
template <class Bits>
__global__ void find_not_finite(const Bits* bits, Bits highest, Index count, std::int32_t* y) {
  if (item() < count && (bits[item()] & highest) == highest) *y = 0;
}

/// One block per row.
template <class X, class Y>
__global__ void drop_row(const X* x, float rate, float factor, std::uint64_t key, const std::int64_t* row_key, Y* y, Index cols) {
  const Index row = blockIdx.x;
  const Random random(key_of(key, row_key[row]));
  for (Index c = threadIdx.x; c < cols; c += blockDim.x) {
    const float kept = random.uniform(static_cast<std::uint64_t>(c)) >= rate ? static_cast<float>(x[row * cols + c]) * factor : 0.0F;
    y[row * cols + c] = kept;
  }
}

/// One block per row.
template <class X>
__global__ void copy_row_columns(const X* from, Index in, X* to, Index out, Index count) {
  const Index row = blockIdx.x;
  for (Index i = threadIdx.x; i < count; i += blockDim.x) to[row * out + i] = from[row * in + i];
}

}  // namespace

void fill(Cuda, Stream& stream, const Tensor& x, float value) {
  with_any_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(fill_values<T>, blocks_for(x.elements()), kBlockThreads, stream, on_device<T>(x), static_cast<T>(value), x.elements());
  });
}

void add(Cuda, Stream& stream, const Tensor& a, const Tensor& b, const Tensor& y) {
  with_float_type(a.dtype(), [&](auto ta) {
    with_float_type(b.dtype(), [&](auto tb) {
      with_float_type(y.dtype(), [&](auto ty) {
        using A = decltype(ta);
        using B = decltype(tb);
        using Y = decltype(ty);
        const auto body = [&](auto pack) {
          const Index packs = y.elements() / pack();
          launch(add_values<pack(), A, B, Y>, blocks_for(packs), kBlockThreads, stream, on_device<A>(a), on_device<B>(b), on_device<Y>(y),
                 packs);
        };
        with_packs(y.elements(), body, a, b, y);
      });
    });
  });
}

void scaled(Cuda, Stream& stream, const Tensor& x, float factor, const Tensor& y) {
  with_float_type(x.dtype(), [&](auto in) {
    with_float_type(y.dtype(), [&](auto out) {
      using X = decltype(in);
      using Y = decltype(out);
      const auto body = [&](auto pack) {
        const Index packs = x.elements() / pack();
        launch(scale_values<pack(), float, X, Y>, blocks_for(packs), kBlockThreads, stream, on_device<X>(x), factor, on_device<Y>(y),
               packs);
      };
      with_packs(x.elements(), body, x, y);
    });
  });
}

void scale_rows(Cuda, Stream& stream, const Tensor& x, const Tensor& gate, const Tensor& y) {
  with_float_type(x.dtype(), [&](auto in) {
    with_float_type(y.dtype(), [&](auto out) {
      using X = decltype(in);
      using Y = decltype(out);
      const auto body = [&](auto pack) {
        launch(scale_row<pack(), X, Y>, blocks_for(x.rows(), 1), row_threads(x.cols()), stream, on_device<X>(x), on_device<float>(gate),
               on_device<Y>(y), x.cols());
      };
      with_packs(x.cols(), body, x, y);
    });
  });
}

void copy_columns(Cuda, Stream& stream, const Tensor& from, Index from_first, const Tensor& to, Index to_first, Index count) {
  with_float_type(from.dtype(), [&](auto type) {
    using X = decltype(type);
    launch(copy_row_columns<X>, blocks_for(from.rows(), 1), row_threads(count), stream, on_device<X>(from) + from_first, from.cols(),
           on_device<X>(to) + to_first, to.cols(), count);
  });
}

void row_dot(Cuda, Stream& stream, const Tensor& a, const Tensor& b, const Tensor& y) {
  with_float_type(a.dtype(), [&](auto ta) {
    with_float_type(b.dtype(), [&](auto tb) {
      using A = decltype(ta);
      using B = decltype(tb);
      const auto body = [&](auto pack) {
        launch(dot_row<pack(), A, B>, blocks_for(a.rows(), 1), row_threads(a.cols()), stream, on_device<A>(a), on_device<B>(b),
               on_device<float>(y), a.cols());
      };
      with_packs(a.cols(), body, a, b);
    });
  });
}

void copy_into(Cuda, Stream& stream, const Tensor& from, const Tensor& to) {
  if (from.dtype() == to.dtype()) return stream.copy(to.raw(), from.raw(), from.bytes());
  with_any_float_type(from.dtype(), [&](auto in) {
    with_any_float_type(to.dtype(), [&](auto out) {
      using X = decltype(in);
      using Y = decltype(out);
      using Wider = std::conditional_t<std::is_same_v<X, double>, double, float>;
      const auto body = [&](auto pack) {
        const Index packs = from.elements() / pack();
        launch(scale_values<pack(), Wider, X, Y>, blocks_for(packs), kBlockThreads, stream, on_device<X>(from), Wider{1}, on_device<Y>(to),
               packs);
      };
      with_packs(from.elements(), body, from, to);
    });
  });
}

void add_squared_norm(Cuda, Stream& stream, const Tensor& x, const Tensor& into) { add_sum_of<Squared>(stream, x, 1, into); }

void add_sum(Cuda, Stream& stream, const Tensor& x, double factor, const Tensor& into) { add_sum_of<Itself>(stream, x, factor, into); }

void all_finite(Cuda, Stream& stream, const Tensor& x, const Tensor& y) {
  check(x.dtype() == DType::f32 || x.dtype() == DType::bf16, "all_finite takes f32 or bf16, got ", name_of(x.dtype()));
  auto* const found = on_device<std::int32_t>(y);
  launch(set_one, 1, 1, stream, found);
  if (x.dtype() == DType::f32) {
    launch(find_not_finite<std::uint32_t>, blocks_for(x.elements()), kBlockThreads, stream, static_cast<const std::uint32_t*>(x.raw()),
           0x7f800000U, x.elements(), found);
  } else {
    launch(find_not_finite<std::uint16_t>, blocks_for(x.elements()), kBlockThreads, stream, static_cast<const std::uint16_t*>(x.raw()),
           std::uint16_t{0x7f80}, x.elements(), found);
  }
}

void dropout(Cuda, Stream& stream, const Tensor& x, float rate, std::uint64_t key, const Tensor& row_key, const Tensor& y) {
  with_float_type(x.dtype(), [&](auto in) {
    with_float_type(y.dtype(), [&](auto out) {
      using X = decltype(in);
      using Y = decltype(out);
      launch(drop_row<X, Y>, blocks_for(x.rows(), 1), row_threads(x.cols()), stream, on_device<X>(x), rate, 1.0F / (1.0F - rate), key,
             on_device<std::int64_t>(row_key), on_device<Y>(y), x.cols());
    });
  });
}

}  // namespace yard::ops::kernels
