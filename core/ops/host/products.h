#pragma once

#include <functional>
#include <span>

#include "core/ops/host/gemm.h"
#include "core/ops/matmul.h"

namespace yard::ops::host {

/// The tiled products behind core/ops/matmul.h, in two kinds: f32 through sgemm, which also serves bf16 values where the processor does not
/// multiply bf16 (they are widened tile by tile, exactly), and bf16 through compiled products.

enum class Direction : std::uint8_t { forward, backward };  // x W^T, or dy W

/// Whether groups have so few rows that their weights are best laid out in passing, in a core's cache: a copy in memory would be written
/// and read once for hardly any products. The same panels meet the same products then, so that results are the same bits.
inline bool few_rows(std::span<const Index> rows) {
  constexpr Index kFew = 32;
  Index all = 0;
  Index groups = 0;
  for (const Index count : rows) {
    all += count;
    groups += count > 0 ? 1 : 0;
  }
  return all <= kFew * groups;
}

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
