#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "core/ops/host/products.h"
#include "core/ops/host/tasks.h"

namespace yard::ops::host {
namespace {

constexpr Index kLanes = 16;
constexpr Index kTogether = 4;         // sums of a row of weights at a time, so that they do not wait for one another
constexpr Index kAhead = 2048;         // bytes that are asked for before they are needed: rows are shorter than what hardware learns from
constexpr Index kTaskBytes = 1 << 16;  // of weights: enough to be worth handing out, few enough for all threads to end together

using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));
using Words = std::uint32_t __attribute__((vector_size(kLanes * sizeof(std::uint32_t))));
using Halves = std::uint16_t __attribute__((vector_size(kLanes * sizeof(std::uint16_t))));

Lanes load(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof(lanes));
  return lanes;
}
Lanes load(const BFloat16* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  return std::bit_cast<Lanes>(__builtin_convertvector(halves, Words) << 16U);
}

/// The product of two rows, summed in an order that depends on their length alone.
template <class T>
float dot(const T* weights, const T* x, Index depth) {
  std::array<Lanes, kTogether> sums{};
  Index k = 0;
  for (; k + kTogether * kLanes <= depth; k += kTogether * kLanes) {
    for (Index i = 0; i < kTogether * kLanes * static_cast<Index>(sizeof(T)); i += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(weights + k) + kAhead + i);
    for (std::size_t i = 0; i < kTogether; ++i) {
      const Index at = k + static_cast<Index>(i) * kLanes;
      sums[i] += load(weights + at) * load(x + at);
    }
  }
  for (; k + kLanes <= depth; k += kLanes) sums[0] += load(weights + k) * load(x + k);
  Lanes all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  float sum = 0;
  for (Index i = 0; i < kLanes; ++i) sum += all[i];
  for (; k < depth; ++k) sum += static_cast<float>(weights[k]) * static_cast<float>(x[k]);
  return sum;
}

/// Rows [out, out + outs) of a group's matrix and all of the group's rows.
struct Piece {
  Index group, row, rows, out, outs;
};

}  // namespace

void multiply_by_row(Stream&, const Tensor& x, const Tensor& value, std::span<const Index> rows, const Tensor& y) {
  const Index depth = x.cols();
  const Index out = y.cols();
  const Index each = std::max<Index>(kTaskBytes / (depth * static_cast<Index>(size_of(value.dtype()))), 1);
  std::vector<Piece> pieces;
  Index start = 0;
  for (Index group = 0; group < static_cast<Index>(rows.size()); ++group) {
    const Index count = rows[static_cast<std::size_t>(group)];
    if (count > 0) {
      for (Index first = 0; first < out; first += each) pieces.push_back({group, start, count, first, std::min(each, out - first)});
    }
    start += count;
  }
  with_float_type(x.dtype(), [&](auto type) {
    with_float_type(y.dtype(), [&](auto out_type) {
      const auto* from = x.data<decltype(type)>();
      const auto* weights = value.data<decltype(type)>();
      auto* to = y.data<decltype(out_type)>();
      run_tasks(static_cast<Index>(pieces.size()), [&](Index task, int) {
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
