#pragma once

#include <functional>
#include <span>

#include "core/tensor/tensor.h"

namespace yard::ops {

/// Matrix products by groups of rows: rows [0, r0) of x meet matrix 0, the next r1 rows matrix 1, and so on; a dense product is one group.
/// A group may have no rows. Accumulation is f32; results are rounded once, where they are stored.
///
/// What one row becomes does not depend on how many rows came along, on its place, or on the threads (design, section 7): weights are laid
/// out alike for any number of rows, every product goes through fixed tiles of rows, each worked by one thread, with the number of rows
/// padded to a multiple of 16.

/// Groups of weight matrices (out, in) as products take them: the values, and a copy of them in the order that the processor likes, which
/// is made when a product first needs it.
class Weights {
 public:
  Weights() = default;
  /// value: (groups * out, in), f32 or bf16; kept by reference.
  Weights(const Tensor& value, Index groups);
  /// The values have changed: they will be laid out anew.
  void refresh() { packed_ = {}; }

  Index groups() const noexcept { return groups_; }
  Index in() const noexcept { return value_.cols(); }
  Index out() const noexcept { return groups_ == 0 ? 0 : value_.rows() / groups_; }
  DType dtype() const noexcept { return value_.dtype(); }
  const Tensor& value() const noexcept { return value_; }
  /// The laid-out copy, about the values' own size; its layout is the kernel's own.
  const Tensor& packed(const std::function<Tensor()>& lay_out) const;

 private:
  Tensor value_;           // (groups * out, in)
  mutable Tensor packed_;  // empty until a product needs it
  Index groups_ = 0;
};

/// y = x W_g^T.                                                    x: (N, in)  y: (N, out), dtype `out` (default x's)
/// x has the weights' dtype; rows_per_group sums to N. `poll` is called now and then between products by the calling thread.
Tensor matmul(Stream&, const Tensor& x, const Weights&, std::span<const Index> rows_per_group, DType out,
              const std::function<void()>& poll = {});
Tensor matmul(Stream&, const Tensor& x, const Weights&);
/// dx = dy W_g.                                                    dy: (N, out)  dx: (N, in), dtype `out`
Tensor matmul_backward_input(Stream&, const Tensor& dy, const Weights&, std::span<const Index> rows_per_group, DType out,
                             const std::function<void()>& poll = {});
Tensor matmul_backward_input(Stream&, const Tensor& dy, const Weights&);
/// dweight_g += dy_g^T x_g.                                        dy: (N, out)  x: (N, in)  dweight: (groups * out, in) f32
/// The order of summation over a group's rows is fixed; a group without rows adds nothing.
void matmul_backward_weight(Stream&, const Tensor& dy, const Tensor& x, std::span<const Index> rows_per_group, const Tensor& dweight,
                            const std::function<void()>& poll = {});

/// y = x W_g^T for few rows, as when texts are continued: the values are read as they lie, each once, at the speed of memory. Rows do not
/// depend on each other here either, but differ from matmul's by rounding.    x: (N, in)  value: (groups * out, in)  y: (N, out)
Tensor matmul_by_row(Stream&, const Tensor& x, const Tensor& value, std::span<const Index> rows_per_group, DType out);

/// Whether this processor and library keep the promise of rows bit for bit, found by trying a few products (some milliseconds). Where it is
/// false, rows of the same values may differ by rounding, and so may runs in different layouts.
bool rows_are_invariant(Stream&, DType);

namespace kernels {
void matmul(Cpu, Stream&, const Tensor& x, const Weights&, std::span<const Index> rows, const Tensor& y, const std::function<void()>& poll);
void matmul_backward_input(Cpu, Stream&, const Tensor& dy, const Weights&, std::span<const Index> rows, const Tensor& dx,
                           const std::function<void()>& poll);
void matmul_backward_weight(Cpu, Stream&, const Tensor& dy, const Tensor& x, std::span<const Index> rows, const Tensor& dweight,
                            const std::function<void()>& poll);
void matmul_by_row(Cpu, Stream&, const Tensor& x, const Tensor& value, std::span<const Index> rows, const Tensor& y);
void matmul(Cuda, Stream&, const Tensor& x, const Weights&, std::span<const Index> rows, const Tensor& y,
            const std::function<void()>& poll);
void matmul_backward_input(Cuda, Stream&, const Tensor& dy, const Weights&, std::span<const Index> rows, const Tensor& dx,
                           const std::function<void()>& poll);
void matmul_backward_weight(Cuda, Stream&, const Tensor& dy, const Tensor& x, std::span<const Index> rows, const Tensor& dweight,
                            const std::function<void()>& poll);
void matmul_by_row(Cuda, Stream&, const Tensor& x, const Tensor& value, std::span<const Index> rows, const Tensor& y);
}  // namespace kernels

}  // namespace yard::ops
