#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "core/ops/host/lanes.h"
#include "core/ops/host/products.h"
#include "core/ops/host/tasks.h"

namespace yard::ops::host {
namespace {

constexpr auto kWidth = static_cast<Index>(kLanes);
constexpr Index kTogether = 4;          // sums of a row of weights at a time, so that they do not wait for one another
constexpr Index kPieceBytes = 1 << 15;  // of weights: few enough for all threads to end together

/// A word of memory holds two bf16: the even ones of 32 values, and the odd ones.
struct Pairs {
  Lanes even, odd;
};
Pairs load_pairs(const BFloat16* from) {
  const auto words = load_as<WordLanes>(from);
  return {std::bit_cast<Lanes>(words << 16U), std::bit_cast<Lanes>(words & 0xffff0000U)};
}

/// A row as f32, laid out as `dot` reads it: of each 32 values the even ones, then the odd ones.
void widen(const BFloat16* from, Index depth, float* to) {
  Index k = 0;
  for (; k + 2 * kWidth <= depth; k += 2 * kWidth) {
    const Pairs pairs = load_pairs(from + k);
    store_lanes(pairs.even, to + k);
    store_lanes(pairs.odd, to + k + kWidth);
  }
  for (; k < depth; ++k) to[k] = from[k];
}

/// Rows as `dot` reads them; those of f32 as they are.
Tensor readable(Stream& stream, const Tensor& x) {
  if (x.dtype() == DType::f32) return x;
  const Tensor wide(stream, x.shape());
  const Index depth = x.cols();
  for (Index row = 0, rows = x.rows(); row < rows; ++row) widen(x.data<BFloat16>() + row * depth, depth, wide.data<float>() + row * depth);
  return wide;
}

float sum_of(const std::array<Lanes, kTogether>& sums) {
  const Lanes all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  float sum = 0;
  for (Index i = 0; i < kWidth; ++i) sum += all[i];
  return sum;
}

/// The product of a row of weights with x, summed in an order that depends on their length alone.
float dot(const float* weights, const float* x, Index depth) {
  std::array<Lanes, kTogether> sums{};
  Index k = 0;
  for (; k + kTogether * kWidth <= depth; k += kTogether * kWidth) {
    for (std::size_t i = 0; i < kTogether; ++i) {
      const Index at = k + static_cast<Index>(i) * kWidth;
      sums[i] += load_lanes(weights + at) * load_lanes(x + at);
    }
  }
  float sum = sum_of(sums);
  for (; k < depth; ++k) sum += weights[k] * x[k];
  return sum;
}

float dot(const BFloat16* weights, const float* x, Index depth) {
  std::array<Lanes, kTogether> sums{};
  Index k = 0;
  const auto add = [&](Lanes& even, Lanes& odd) {
    const Pairs pairs = load_pairs(weights + k);
    even += pairs.even * load_lanes(x + k);
    odd += pairs.odd * load_lanes(x + k + kWidth);
    k += 2 * kWidth;
  };
  while (k + 4 * kWidth <= depth) {
    add(sums[0], sums[1]);
    add(sums[2], sums[3]);
  }
  if (k + 2 * kWidth <= depth) add(sums[0], sums[1]);
  float sum = sum_of(sums);
  for (; k < depth; ++k) sum += static_cast<float>(weights[k]) * x[k];
  return sum;
}

/// Rows [out, out + outs) of a group's matrix and all of the group's rows.
struct Piece {
  Index group, row, rows, out, outs;
};

}  // namespace

void multiply_by_row(Stream& stream, const Tensor& x, const Tensor& value, std::span<const Index> rows, const Tensor& y) {
  const Index depth = x.cols();
  const Index out = y.cols();
  const Index row_bytes = depth * static_cast<Index>(size_of(value.dtype()));
  const Index each = std::max(kPieceBytes / row_bytes, Index{1});
  std::vector<Piece> pieces;
  Index start = 0;
  for (Index group = 0; group < static_cast<Index>(rows.size()); ++group) {
    const Index count = rows[static_cast<std::size_t>(group)];
    if (count > 0) {
      for (Index first = 0; first < out; first += each) pieces.push_back({group, start, count, first, std::min(each, out - first)});
    }
    start += count;
  }
  const Tensor readable_x = readable(stream, x);
  const float* const from = readable_x.data<float>();
  with_float_type(x.dtype(), [&](auto type) {
    with_float_type(y.dtype(), [&](auto out_type) {
      const auto* weights = value.data<decltype(type)>();
      auto* to = y.data<decltype(out_type)>();
      run_tasks<Shares>(static_cast<Index>(pieces.size()), [&](Index task, int) {
        const Piece& piece = pieces[static_cast<std::size_t>(task)];
        for (Index i = piece.out; i < piece.out + piece.outs; ++i) {
          const auto* matrix_row = weights + (piece.group * out + i) * depth;
          for (Index row = piece.row; row < piece.row + piece.rows; ++row) to[row * out + i] = dot(matrix_row, from + row * depth, depth);
        }
      });
    });
  });
}

}  // namespace yard::ops::host
