#include "core/ops/matmul.h"

#include <cstring>
#include <numeric>
#include <vector>

#include "core/ops/host/products.h"

namespace yard::ops {
namespace {

Index total(std::span<const Index> rows) { return std::accumulate(rows.begin(), rows.end(), Index{0}); }

void check_rows(const Tensor& x, std::span<const Index> rows, Index groups) {
  check(static_cast<Index>(rows.size()) == groups, "a product has row counts for ", rows.size(), " groups, its weights have ", groups);
  for (const Index count : rows) check(count >= 0, "a group of a product cannot have ", count, " rows");
  check(total(rows) == x.rows(), "the groups of a product hold ", total(rows), " rows, its input is ", x.shape());
}

void check_operand(const Tensor& x, const Weights& weights, Index columns, DType out) {
  check(x.cols() == columns, "a product with weights of ", weights.out(), " x ", weights.in(), " needs rows of ", columns, " values, got ",
        x.shape());
  check(x.dtype() == weights.dtype(), "a product has weights of ", name_of(weights.dtype()), " and rows of ", name_of(x.dtype()));
  check(out == DType::f32 || out == DType::bf16, "a product is stored as f32 or bf16, not as ", name_of(out));
}

}  // namespace

Weights::Weights(const Tensor& value, Index groups) : value_(value), groups_(groups) {
  check(groups > 0 && value.shape().rank() == 2 && value.rows() % groups == 0 && value.elements() > 0, "weights of shape ", value.shape(),
        " are no ", groups, " matrices");
  check(value.dtype() == DType::f32 || value.dtype() == DType::bf16, "weights are f32 or bf16, not ", name_of(value.dtype()));
}

const Tensor& Weights::packed(const std::function<Tensor()>& lay_out) const {
  if (!packed_.defined()) packed_ = lay_out();
  return packed_;
}

Tensor matmul(Stream& stream, const Tensor& x, const Weights& weights, std::span<const Index> rows_per_group, DType out,
              const std::function<void()>& poll) {
  check_operand(x, weights, weights.in(), out);
  check_rows(x, rows_per_group, weights.groups());
  Tensor y(stream, {x.rows(), weights.out()}, out);
  if (x.rows() > 0) dispatch(stream.device(), [&](auto on) { kernels::matmul(on, stream, x, weights, rows_per_group, y, poll); });
  return y;
}

Tensor matmul(Stream& stream, const Tensor& x, const Weights& weights) {
  const Index rows = x.rows();
  return matmul(stream, x, weights, {&rows, 1}, x.dtype());
}

Tensor matmul_backward_input(Stream& stream, const Tensor& dy, const Weights& weights, std::span<const Index> rows_per_group, DType out,
                             const std::function<void()>& poll) {
  check_operand(dy, weights, weights.out(), out);
  check_rows(dy, rows_per_group, weights.groups());
  Tensor dx(stream, {dy.rows(), weights.in()}, out);
  if (dy.rows() > 0) {
    dispatch(stream.device(), [&](auto on) { kernels::matmul_backward_input(on, stream, dy, weights, rows_per_group, dx, poll); });
  }
  return dx;
}

Tensor matmul_backward_input(Stream& stream, const Tensor& dy, const Weights& weights) {
  const Index rows = dy.rows();
  return matmul_backward_input(stream, dy, weights, {&rows, 1}, dy.dtype());
}

void matmul_backward_weight(Stream& stream, const Tensor& dy, const Tensor& x, std::span<const Index> rows_per_group, const Tensor& dweight,
                            const std::function<void()>& poll) {
  const auto groups = static_cast<Index>(rows_per_group.size());
  check_rows(x, rows_per_group, groups);
  check(dy.rows() == x.rows(), "a weight gradient needs as many rows of both, got ", dy.shape(), " and ", x.shape());
  check(dy.dtype() == x.dtype() && (x.dtype() == DType::f32 || x.dtype() == DType::bf16),
        "a weight gradient needs rows of one type, f32 or bf16, got ", name_of(dy.dtype()), " and ", name_of(x.dtype()));
  check(dweight.dtype() == DType::f32 && dweight.rows() == groups * dy.cols() && dweight.cols() == x.cols(), "the weight gradient of ",
        groups, " groups of ", dy.cols(), " x ", x.cols(), " does not fit ", name_of(dweight.dtype()), " ", dweight.shape());
  if (x.rows() == 0) return;
  dispatch(stream.device(), [&](auto on) { kernels::matmul_backward_weight(on, stream, dy, x, rows_per_group, dweight, poll); });
}

Tensor matmul_by_row(Stream& stream, const Tensor& x, const Tensor& value, std::span<const Index> rows_per_group, DType out) {
  const auto groups = static_cast<Index>(rows_per_group.size());
  check_rows(x, rows_per_group, groups);
  check(value.dtype() == x.dtype() && (x.dtype() == DType::f32 || x.dtype() == DType::bf16), "a product has weights of ",
        name_of(value.dtype()), " and rows of ", name_of(x.dtype()));
  check(groups > 0 && value.rows() % groups == 0 && value.cols() == x.cols(), "weights of shape ", value.shape(), " are no ", groups,
        " matrices for rows of ", x.cols(), " values");
  Tensor y(stream, {x.rows(), value.rows() / groups}, out);
  if (x.rows() > 0) dispatch(stream.device(), [&](auto on) { kernels::matmul_by_row(on, stream, x, value, rows_per_group, y); });
  return y;
}

bool rows_are_invariant(Stream& stream, DType dtype) {
  constexpr Index kRows = 137;  // a full tile and every size of remainder
  for (const Index in : {Index{96}, Index{1024}}) {
    const auto fill = [&](Index rows, unsigned seed) {
      const Tensor result = Tensor::on_host(stream, {rows, in}, dtype);
      with_float_type(dtype, [&](auto type) {
        std::uint32_t state = seed;
        for (auto& value : result.values<decltype(type)>()) {
          state = state * 1664525U + 1013904223U;  // Numerical Recipes: any values with full mantissas serve
          value = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31F;
        }
      });
      const Tensor copy = result.to(stream, stream.device());
      stream.synchronize();  // the host's memory is given back here
      return copy;
    };
    const auto same = [&](const Tensor& a, const Tensor& b) {
      return std::memcmp(a.to(stream, Device{}).raw(), b.to(stream, Device{}).raw(), a.bytes()) == 0;
    };
    const Tensor x = fill(kRows, 1);
    const Weights weights(fill(200, 2), 1);
    const Tensor dy = matmul(stream, x, weights);
    const Tensor dx = matmul_backward_input(stream, dy, weights);
    for (const auto& [first, count] : {std::pair<Index, Index>{0, 1}, {3, 16}, {5, 40}, {1, 70}, {2, 127}}) {
      const Tensor some = matmul(stream, x.row_range(first, count), weights);
      const Tensor back = matmul_backward_input(stream, dy.row_range(first, count), weights);
      if (!same(some, dy.row_range(first, count)) || !same(back, dx.row_range(first, count))) return false;
    }
  }
  return true;
}

namespace kernels {

void matmul(Cpu, Stream& stream, const Tensor& x, const Weights& weights, std::span<const Index> rows, const Tensor& y,
            const std::function<void()>& poll) {
  if (x.dtype() == DType::bf16 && host::multiplies_bf16()) {
    host::multiply_bf16(stream, x, weights, host::Direction::forward, rows, y, poll);
  } else {
    host::multiply_f32(stream, x, weights, host::Direction::forward, rows, y, poll);
  }
}

void matmul_by_row(Cpu, Stream& stream, const Tensor& x, const Tensor& value, std::span<const Index> rows, const Tensor& y) {
  host::multiply_by_row(stream, x, value, rows, y);
}

void matmul_backward_input(Cpu, Stream& stream, const Tensor& dy, const Weights& weights, std::span<const Index> rows, const Tensor& dx,
                           const std::function<void()>& poll) {
  if (dy.dtype() == DType::bf16 && host::multiplies_bf16()) {
    host::multiply_bf16(stream, dy, weights, host::Direction::backward, rows, dx, poll);
  } else {
    host::multiply_f32(stream, dy, weights, host::Direction::backward, rows, dx, poll);
  }
}

void matmul_backward_weight(Cpu, Stream& stream, const Tensor& dy, const Tensor& x, std::span<const Index> rows, const Tensor& dweight,
                            const std::function<void()>& poll) {
  if (x.dtype() == DType::bf16 && host::multiplies_bf16()) {
    host::add_outer_bf16(stream, dy, x, rows, dweight, poll);
  } else {
    host::add_outer_f32(stream, dy, x, rows, dweight, poll);
  }
}

}  // namespace kernels

}  // namespace yard::ops
