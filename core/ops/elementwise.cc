#include "core/ops/elementwise.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/ops/loops.h"
#include "core/random.h"

namespace yard::ops {
namespace {

void check_same_shape(const Tensor& a, const Tensor& b) {
  check(a.shape() == b.shape(), "both operands have one shape, got ", a.shape(), " and ", b.shape());
}

void check_per_row(const Tensor& x, const Tensor& values, DType dtype, const char* what) {
  check(values.dtype() == dtype && values.elements() == x.rows(), what, " of ", x.shape(), " must be ", x.rows(), " ", name_of(dtype),
        ", got ", name_of(values.dtype()), " ", values.shape());
}

void check_total(const Tensor& into) {
  check(into.dtype() == DType::f64 && into.elements() == 1, "a sum is added to one f64, got ", name_of(into.dtype()), " ", into.shape());
}

void check_f32(const Tensor& x, const char* what) { check(x.dtype() == DType::f32, what, " takes f32, got ", name_of(x.dtype())); }

}  // namespace

void fill(Stream& stream, const Tensor& x, float value) {
  dispatch(stream.device(), [&](auto on) { kernels::fill(on, stream, x, value); });
}

Tensor add(Stream& stream, const Tensor& a, const Tensor& b, DType out) {
  check_same_shape(a, b);
  Tensor y(stream, a.shape(), out);
  dispatch(stream.device(), [&](auto on) { kernels::add(on, stream, a, b, y); });
  return y;
}

void accumulate(Stream& stream, const Tensor& x, const Tensor& into) {
  check_same_shape(x, into);
  dispatch(stream.device(), [&](auto on) { kernels::add(on, stream, into, x, into); });
}

Tensor scaled(Stream& stream, const Tensor& x, float factor, DType out) {
  Tensor y(stream, x.shape(), out);
  dispatch(stream.device(), [&](auto on) { kernels::scaled(on, stream, x, factor, y); });
  return y;
}

Tensor scale_rows(Stream& stream, const Tensor& x, const Tensor& gate, DType out) {
  check_per_row(x, gate, DType::f32, "the factors of the rows");
  Tensor y(stream, x.shape(), out);
  dispatch(stream.device(), [&](auto on) { kernels::scale_rows(on, stream, x, gate, y); });
  return y;
}

Tensor row_dot(Stream& stream, const Tensor& a, const Tensor& b) {
  check_same_shape(a, b);
  Tensor y(stream, {a.rows()});
  dispatch(stream.device(), [&](auto on) { kernels::row_dot(on, stream, a, b, y); });
  return y;
}

Tensor cast(Stream& stream, const Tensor& x, DType to) {
  if (x.dtype() == to) return x;
  Tensor y(stream, x.shape(), to);
  copy_into(stream, x, y);
  return y;
}

Tensor columns(Stream& stream, const Tensor& x, Index first, Index count) {
  check(first >= 0 && count > 0 && first + count <= x.cols(), "columns [", first, ", ", first + count, ") are not all in ", x.shape());
  Tensor y(stream, {x.rows(), count}, x.dtype());
  dispatch(stream.device(), [&](auto on) { kernels::copy_columns(on, stream, x, first, y, 0, count); });
  return y;
}

void set_columns(Stream& stream, const Tensor& x, const Tensor& into, Index first) {
  check(first >= 0 && first + x.cols() <= into.cols() && x.rows() == into.rows() && x.dtype() == into.dtype(), "", name_of(x.dtype()), " ",
        x.shape(), " cannot be the columns from ", first, " on of ", name_of(into.dtype()), " ", into.shape());
  dispatch(stream.device(), [&](auto on) { kernels::copy_columns(on, stream, x, 0, into, first, x.cols()); });
}

void copy_into(Stream& stream, const Tensor& from, const Tensor& to) {
  check(from.elements() == to.elements(), "cannot copy the values of ", from.shape(), " into ", to.shape());
  dispatch(stream.device(), [&](auto on) { kernels::copy_into(on, stream, from, to); });
}

void add_squared_norm(Stream& stream, const Tensor& x, const Tensor& into) {
  check_f32(x, "add_squared_norm");
  check_total(into);
  dispatch(stream.device(), [&](auto on) { kernels::add_squared_norm(on, stream, x, into); });
}

void add_sum(Stream& stream, const Tensor& x, double factor, const Tensor& into) {
  check_f32(x, "add_sum");
  check_total(into);
  dispatch(stream.device(), [&](auto on) { kernels::add_sum(on, stream, x, factor, into); });
}

Tensor all_finite(Stream& stream, const Tensor& x) {
  Tensor y(stream, {1}, DType::i32);
  dispatch(stream.device(), [&](auto on) { kernels::all_finite(on, stream, x, y); });
  return y;
}

Tensor dropout(Stream& stream, const Tensor& x, float rate, std::uint64_t key, const Tensor& row_key, DType out) {
  check(rate >= 0 && rate < 1, "a dropout rate lies in [0, 1), got ", rate);
  check_per_row(x, row_key, DType::i64, "the keys of the rows");
  Tensor y(stream, x.shape(), out);
  dispatch(stream.device(), [&](auto on) { kernels::dropout(on, stream, x, rate, key, row_key, y); });
  return y;
}

namespace kernels {
namespace {

/// Values that one partial sum covers, and where flat loops may be cut between threads.
constexpr Index kBlock = 4096;

/// Calls body(T{}) with float, BFloat16 or double.
template <class Body>
void with_any_float_type(DType dtype, const Body& body) {
  if (dtype == DType::f64) return body(double{});
  with_float_type(dtype, body);
}

/// y[i] = f(x[i]) over flat values.
template <class X, class Y, class F>
void map(const X* x, Y* y, Index count, const F& f) {
  parallel_ranges(count, 1, kBlock, [=](Index first, Index last) {
#pragma omp simd
    for (Index i = first; i < last; ++i) y[i] = f(x[i]);
  });
}

/// The f64 sum of term(0) ... term(count - 1): blocks of a fixed size, each by one thread, added in order.
template <class Term>
double block_sum(Stream& stream, Index count, const Term& term) {
  const Index blocks = (count + kBlock - 1) / kBlock;
  const Tensor partial(stream, {blocks}, DType::f64);
  double* sums = partial.data<double>();
  parallel_ranges(blocks, kBlock, 1, [=](Index first, Index last) {
    for (Index block = first; block < last; ++block) {
      const Index start = block * kBlock;
      sums[block] = lane_sum<double>(std::min(kBlock, count - start), [=](Index i) { return term(start + i); });
    }
  });
  double total = 0;
  for (Index block = 0; block < blocks; ++block) total += sums[block];
  return total;
}

/// Whether all exponents are below the highest one, which infinities and NaN have.
template <class Bits>
bool exponents_below(const Bits* bits, Index count, Bits highest) {
  std::atomic<bool> finite = true;
  parallel_ranges(count, 1, kBlock, [=, &finite](Index first, Index last) {
    const auto largest = lane_max(last - first, Bits{0}, [=](Index i) { return static_cast<Bits>(bits[first + i] & highest); });
    if (largest == highest) finite = false;
  });
  return finite;
}

template <class X, class Y>
void drop_row(const X* x, const Random random, float rate, float factor, Y* y, Index cols) {
  constexpr Index kStrip = 256;  // draws and values each in a loop of their own: together they do not vectorise
  float draws[kStrip];
  for (Index start = 0; start < cols; start += kStrip) {
    const Index width = std::min(kStrip, cols - start);
    for (Index c = 0; c < width; ++c) draws[c] = random.uniform(static_cast<std::uint64_t>(start + c));
#pragma omp simd
    for (Index c = 0; c < width; ++c) y[start + c] = draws[c] >= rate ? static_cast<float>(x[start + c]) * factor : 0.0F;
  }
}

}  // namespace

void fill(Cpu, Stream&, const Tensor& x, float value) {
  with_any_float_type(x.dtype(), [&](auto type) {
    auto* to = x.data<decltype(type)>();
    const decltype(type) stored = value;
    parallel_ranges(x.elements(), 1, kBlock, [=](Index first, Index last) { std::fill(to + first, to + last, stored); });
  });
}

void add(Cpu, Stream&, const Tensor& a, const Tensor& b, const Tensor& y) {
  with_float_type(a.dtype(), [&](auto ta) {
    with_float_type(b.dtype(), [&](auto tb) {
      with_float_type(y.dtype(), [&](auto ty) {
        const auto* left = a.data<decltype(ta)>();
        const auto* right = b.data<decltype(tb)>();
        auto* to = y.data<decltype(ty)>();
        parallel_ranges(y.elements(), 1, kBlock, [=](Index first, Index last) {
#pragma omp simd
          for (Index i = first; i < last; ++i) to[i] = static_cast<float>(left[i]) + static_cast<float>(right[i]);
        });
      });
    });
  });
}

void scaled(Cpu, Stream&, const Tensor& x, float factor, const Tensor& y) {
  with_float_type(x.dtype(), [&](auto in) {
    with_float_type(y.dtype(), [&](auto out) {
      map(x.data<decltype(in)>(), y.data<decltype(out)>(), x.elements(), [=](float value) { return value * factor; });
    });
  });
}

void scale_rows(Cpu, Stream&, const Tensor& x, const Tensor& gate, const Tensor& y) {
  const Index cols = x.cols();
  with_float_type(x.dtype(), [&](auto in) {
    with_float_type(y.dtype(), [&](auto out) {
      const auto* from = x.data<decltype(in)>();
      auto* to = y.data<decltype(out)>();
      const float* factors = gate.data<float>();
      parallel_ranges(x.rows(), cols, 1, [=](Index first, Index last) {
        for (Index row = first; row < last; ++row) {
          const float factor = factors[row];
#pragma omp simd
          for (Index i = row * cols; i < (row + 1) * cols; ++i) to[i] = static_cast<float>(from[i]) * factor;
        }
      });
    });
  });
}

void copy_columns(Cpu, Stream&, const Tensor& from, Index from_first, const Tensor& to, Index to_first, Index count) {
  const Index in = from.cols();
  const Index out = to.cols();
  with_float_type(from.dtype(), [&](auto type) {
    const auto* source = from.data<decltype(type)>() + from_first;
    auto* target = to.data<decltype(type)>() + to_first;
    parallel_ranges(from.rows(), count, 1, [=](Index first, Index last) {
      for (Index row = first; row < last; ++row) std::copy_n(source + row * in, count, target + row * out);
    });
  });
}

void row_dot(Cpu, Stream&, const Tensor& a, const Tensor& b, const Tensor& y) {
  const Index cols = a.cols();
  with_float_type(a.dtype(), [&](auto ta) {
    with_float_type(b.dtype(), [&](auto tb) {
      const auto* left = a.data<decltype(ta)>();
      const auto* right = b.data<decltype(tb)>();
      float* to = y.data<float>();
      parallel_ranges(a.rows(), cols, 1, [=](Index first, Index last) {
        for (Index row = first; row < last; ++row) {
          const auto* l = left + row * cols;
          const auto* r = right + row * cols;
          to[row] = lane_sum(cols, [=](Index c) { return static_cast<float>(l[c]) * static_cast<float>(r[c]); });
        }
      });
    });
  });
}

void copy_into(Cpu, Stream&, const Tensor& from, const Tensor& to) {
  if (from.dtype() == to.dtype()) {
    const auto* source = static_cast<const std::byte*>(from.raw());
    auto* target = static_cast<std::byte*>(to.raw());
    parallel_ranges(static_cast<Index>(from.bytes()), 1, kBlock,
                    [=](Index first, Index last) { std::memmove(target + first, source + first, static_cast<std::size_t>(last - first)); });
    return;
  }
  with_any_float_type(from.dtype(), [&](auto in) {
    with_any_float_type(to.dtype(), [&](auto out) {
      using Wider = std::conditional_t<std::is_same_v<decltype(in), double>, double, float>;
      map(from.data<decltype(in)>(), to.data<decltype(out)>(), from.elements(), [](Wider value) { return value; });
    });
  });
}

void add_squared_norm(Cpu, Stream& stream, const Tensor& x, const Tensor& into) {
  const float* v = x.data<float>();
  *into.data<double>() += block_sum(stream, x.elements(), [v](Index i) { return static_cast<double>(v[i]) * static_cast<double>(v[i]); });
}

void add_sum(Cpu, Stream& stream, const Tensor& x, double factor, const Tensor& into) {
  const float* v = x.data<float>();
  *into.data<double>() += factor * block_sum(stream, x.elements(), [v](Index i) { return static_cast<double>(v[i]); });
}

void all_finite(Cpu, Stream&, const Tensor& x, const Tensor& y) {
  check(x.dtype() == DType::f32 || x.dtype() == DType::bf16, "all_finite takes f32 or bf16, got ", name_of(x.dtype()));
  const bool finite = x.dtype() == DType::f32
                          ? exponents_below<std::uint32_t>(static_cast<const std::uint32_t*>(x.raw()), x.elements(), 0x7f800000U)
                          : exponents_below<std::uint16_t>(static_cast<const std::uint16_t*>(x.raw()), x.elements(), 0x7f80U);
  *y.data<std::int32_t>() = finite ? 1 : 0;
}

void dropout(Cpu, Stream&, const Tensor& x, float rate, std::uint64_t key, const Tensor& row_key, const Tensor& y) {
  const Index cols = x.cols();
  const float factor = 1.0F / (1.0F - rate);
  with_float_type(x.dtype(), [&](auto in) {
    with_float_type(y.dtype(), [&](auto out) {
      const auto* from = x.data<decltype(in)>();
      auto* to = y.data<decltype(out)>();
      const std::int64_t* keys = row_key.data<std::int64_t>();
      parallel_ranges(x.rows(), 32 * cols, 1, [=](Index first, Index last) {
        for (Index row = first; row < last; ++row) {
          drop_row(from + row * cols, Random(key_of(key, keys[row])), rate, factor, to + row * cols, cols);
        }
      });
    });
  });
}

}  // namespace kernels

}  // namespace yard::ops
