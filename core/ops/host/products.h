#pragma once

#include <functional>
#include <span>

#include "core/ops/host/gemm.h"
#include "core/ops/matmul.h"

namespace yard::ops::host {

/// The tiled products behind core/ops/matmul.h, in two kinds: f32 through sgemm, which also serves bf16 values where the processor does not
/// multiply bf16 (they are widened tile by tile, exactly), and bf16 through compiled products.

enum class Direction : std::uint8_t { forward, backward };  // x W^T, or dy W

/// f32: forward panels, each (in, width) row-major. bf16 widened: those, and the values as f32.
void pack_f32(Stream&, const Tensor& value, Index groups, Tensor& packed);
/// The panels of the forward direction in the library's own order; the backward direction lays its own out as it comes by.
void pack_bf16(Stream&, const Tensor& value, Index groups, Tensor& packed);

void multiply_f32(Stream&, const Tensor& x, const Weights&, Direction, std::span<const Index> rows, const Tensor& y,
                  const std::function<void()>& poll);
void multiply_bf16(Stream&, const Tensor& x, const Weights&, Direction, std::span<const Index> rows, const Tensor& y,
                   const std::function<void()>& poll);

/// dweight_g += dy_g^T x_g over tiles of dweight.
void add_outer_f32(Stream&, const Tensor& dy, const Tensor& x, std::span<const Index> rows, const Tensor& dweight,
                   const std::function<void()>& poll);
void add_outer_bf16(Stream&, const Tensor& dy, const Tensor& x, std::span<const Index> rows, const Tensor& dweight,
                    const std::function<void()>& poll);

/// y = x W^T, the weights as they lie.
void multiply_by_row(Stream&, const Tensor& x, const Tensor& value, std::span<const Index> rows, const Tensor& y);

}  // namespace yard::ops::host
