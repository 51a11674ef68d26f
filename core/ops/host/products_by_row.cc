#include <algorithm>
#include <array>

#include "core/ops/host/products.h"
#include "core/ops/host/tasks.h"

namespace yard::ops::host {
namespace {

constexpr Index kLanes = 16;
constexpr Index kTogether = 4;         // rows of weights at a time, so that sums do not wait for one another
constexpr Index kTaskBytes = 1 << 16;  // of weights: enough to be worth handing out, few enough for all threads to end together

/// Sums of products of rows of weights with one row, each in an order that depends on the depth alone.
template <Index kCount, class T>
void dot(const T* weights, Index depth, const T* x, float* sums) {
  std::array<std::array<float, kLanes>, kCount> lanes{};
  const Index even = depth / kLanes * kLanes;
  const auto add = [&](Index k, Index width) {
    for (Index i = 0; i < kCount; ++i) {
      const T* row = weights + i * depth + k;
      auto& lane = lanes[static_cast<std::size_t>(i)];
      for (Index l = 0; l < width; ++l) lane[static_cast<std::size_t>(l)] += static_cast<float>(row[l]) * static_cast<float>(x[k + l]);
    }
  };
  for (Index k = 0; k < even; k += kLanes) add(k, kLanes);
  if (even < depth) add(even, depth - even);
  for (Index i = 0; i < kCount; ++i) {
    auto& lane = lanes[static_cast<std::size_t>(i)];
    for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
      for (std::size_t l = 0; l < half; ++l) lane[l] += lane[l + half];
    }
    sums[i] = lane[0];
  }
}

/// Rows [out, out + outs) of a group's matrix and all of the group's rows.
struct Piece {
  Index group, row, rows, out, outs;
};

}  // namespace

void multiply_by_row(Stream&, const Tensor& x, const Tensor& value, std::span<const Index> rows, const Tensor& y) {
  const Index depth = x.cols();
  const Index out = y.cols();
  const Index each = std::max<Index>(kTaskBytes / (depth * static_cast<Index>(size_of(value.dtype()))) / kTogether, 1) * kTogether;
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
        for (Index i = piece.out; i < piece.out + piece.outs; i += kTogether) {
          const Index count = std::min(kTogether, piece.out + piece.outs - i);
          for (Index row = piece.row; row < piece.row + piece.rows; ++row) {
            std::array<float, kTogether> sums;
            const auto* matrix = weights + (piece.group * out + i) * depth;
            if (count == kTogether) {
              dot<kTogether>(matrix, depth, from + row * depth, sums.data());
            } else {
              for (Index j = 0; j < count; ++j) dot<1>(matrix + j * depth, depth, from + row * depth, sums.data() + j);
            }
            std::copy_n(sums.data(), count, to + row * out + i);
          }
        }
      });
    });
  });
}

}  // namespace yard::ops::host
