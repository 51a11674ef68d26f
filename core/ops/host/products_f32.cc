#include <algorithm>
#include <type_traits>

#include "core/ops/host/gemm.h"
#include "core/ops/host/layout.h"
#include "core/ops/host/panels.h"
#include "core/ops/host/products.h"
#include "core/ops/host/tasks.h"

namespace yard::ops::host {
namespace {

constexpr Index kTileRows = 64;    // more rows make the library take another path, whose sums differ
constexpr Index kPieceRows = 16;   // remainders go in pieces of this many rows: with 8 or 32 some processors take another path as well
constexpr Index kOuterRows = 256;  // rows that are widened at a time for a weight gradient

Panels panels_of(Index columns, Index depth) { return {columns, depth, 384 * 512, 384}; }

Index panel_values(const Panels& panels, Index depth) {
  Index values = 0;
  for (Index panel = 0; panel < panels.count; ++panel) values += depth * distance_of(panels.width_of(panel));
  return values;
}

/// What the values of one group take in the packed copy.
struct Layout {
  Panels forward;
  Index in, out;
  bool widened;
  Layout(Index out_columns, Index in_columns, bool widen)
      : forward(panels_of(out_columns, in_columns)), in(in_columns), out(out_columns), widened(widen) {}
  Index forward_values() const { return panel_values(forward, in); }
  Index values() const { return forward_values() + (widened ? in * out : 0); }
  Index panel_offset(Index panel) const { return in * distance_of(forward.width) * panel; }
};

/// The operand of one tile: a panel of weights for rows of `depth` values.
struct Operands {
  const float* weights;
  Index weights_distance, width, depth;
};

/// y = x W over the rows of a tile. Rows and results that are not f32, or fewer than a piece, go through scratch.
template <class X, class Y>
void multiply_tile(const X* x, const Operands& by, Index rows, Y* y, Index y_distance, float* scratch) {
  float* const x_scratch = scratch;
  float* const y_scratch = scratch + kTileRows * by.depth;
  while (rows > 0) {
    const Index piece = rows >= kTileRows ? kTileRows : kPieceRows;
    const Index real = std::min(piece, rows);
    const float* from = x_scratch;
    if constexpr (std::is_same_v<X, float>) {
      if (real == piece) from = x;
    }
    if (from == x_scratch) {
      copy_matrix(x, by.depth, real, by.depth, x_scratch, by.depth);
      std::fill(x_scratch + real * by.depth, x_scratch + piece * by.depth, 0.0F);
    }
    float* to = y_scratch;
    Index to_distance = by.width;
    if constexpr (std::is_same_v<Y, float>) {
      if (real == piece) {
        to = y;
        to_distance = y_distance;
      }
    }
    sgemm(Operand::plain, Operand::plain, piece, by.width, by.depth, 1, from, by.depth, by.weights, by.weights_distance, 0, to,
          to_distance);
    if (to == y_scratch) {
      copy_matrix(y_scratch, by.width, real, by.width, y, y_distance);
    }
    rows -= real;
    x += real * by.depth;
    y += real * y_distance;
  }
}

/// Columns of a weight gradient's tile, and its rows: many tiles even of a small matrix, so that all threads find work. The same for every
/// number of rows and threads.
constexpr Index kOuterIn = 1024;
Index outer_out(Index groups, Index out, Index in) {
  const Index values = groups * out * in;
  const Index most = values >= 12 * 256 * 1024 ? 256 : values >= 8 * 128 * 1024 ? 128 : 64;
  const Index tiles = (out + most - 1) / most;
  return ((out + tiles - 1) / tiles + 63) / 64 * 64;  // of nearly equal width
}

/// Lays out one forward panel of one group.
void lay_out_panel(const Weights& weights, const Layout& layout, Index group, Index panel, float* to) {
  with_float_type(weights.dtype(), [&](auto type) {
    const auto* columns = weights.value().data<decltype(type)>() + (group * layout.out + layout.forward.first(panel)) * layout.in;
    const Index width = layout.forward.width_of(panel);
    transpose_matrix(columns, layout.in, width, layout.in, to, distance_of(width));
  });
}

/// All forward panels, each (in, width) row-major; of bf16 values also the values as f32, for the other direction.
Tensor lay_out(Stream& stream, const Weights& weights, const Layout& layout) {
  Tensor packed(stream, {weights.groups(), layout.values()});
  float* const to = packed.data<float>();
  run_tasks(weights.groups() * layout.forward.count, [&](Index task, int) {
    const Index group = task / layout.forward.count;
    const Index panel = task % layout.forward.count;
    float* const start = to + group * layout.values();
    lay_out_panel(weights, layout, group, panel, start + layout.panel_offset(panel));
    if (!layout.widened) return;
    const Index first = layout.forward.first(panel);
    copy_matrix(weights.value().data<BFloat16>() + (group * layout.out + first) * layout.in, layout.in, layout.forward.width_of(panel),
                layout.in, start + layout.forward_values() + first * layout.in, layout.in);
  });
  return packed;
}

}  // namespace

void multiply_f32(Stream& stream, const Tensor& x, const Weights& weights, Direction direction, std::span<const Index> rows,
                  const Tensor& y, const std::function<void()>& poll) {
  const bool forward = direction == Direction::forward;
  const Index depth = x.cols();
  const Index columns = y.cols();
  const Layout layout(weights.out(), weights.in(), weights.dtype() != DType::f32);
  const Panels panels = panels_of(columns, depth);
  const auto tiles = row_tiles(rows, kTileRows, panels.count);
  const bool in_passing = forward && few_rows(rows);
  const bool as_they_lie = !forward && !layout.widened;
  const float* const packed =
      in_passing || as_they_lie ? nullptr : weights.packed([&] { return lay_out(stream, weights, layout); }).data<float>();
  const Index panel_scratch = in_passing ? depth * distance_of(panels.width) : 0;
  const Tensor scratch(stream, {team_size(), panel_scratch + kTileRows * (depth + panels.width)});
  // `room` is for a panel that is laid out in passing.
  const auto operands = [&](const RowTile& tile, float* room) {
    const Index first = panels.first(tile.panel);
    const Index width = panels.width_of(tile.panel);
    if (in_passing) {
      lay_out_panel(weights, layout, tile.group, tile.panel, room);
      return Operands{room, distance_of(width), width, depth};
    }
    const float* const group = packed + tile.group * layout.values();
    if (forward) return Operands{group + layout.panel_offset(tile.panel), distance_of(width), width, depth};
    const float* const values =
        as_they_lie ? weights.value().data<float>() + tile.group * depth * columns : group + layout.forward_values();
    return Operands{values + first, columns, width, depth};
  };
  with_float_type(x.dtype(), [&](auto x_type) {
    with_float_type(y.dtype(), [&](auto y_type) {
      const auto* from = x.data<decltype(x_type)>();
      auto* to = y.data<decltype(y_type)>();
      run_tasks(static_cast<Index>(tiles.size()), poll, [&](Index task, int thread) {
        const RowTile& tile = tiles[static_cast<std::size_t>(task)];
        float* const room = scratch.data<float>() + thread * scratch.cols();
        multiply_tile(from + tile.row * depth, operands(tile, room), tile.rows, to + tile.row * columns + panels.first(tile.panel), columns,
                      room + panel_scratch);
      });
    });
  });
}

void add_outer_f32(Stream& stream, const Tensor& dy, const Tensor& x, std::span<const Index> rows, const Tensor& dweight,
                   const std::function<void()>& poll) {
  const Index out = dy.cols();
  const Index in = x.cols();
  const Index tile_out = outer_out(static_cast<Index>(rows.size()), out, in);
  const auto tiles = outer_tiles(rows, out, in, tile_out, kOuterIn);
  const bool widened = x.dtype() != DType::f32;
  const Tensor scratch(stream, {team_size(), widened ? kOuterRows * (tile_out + kOuterIn) : 0});
  float* const to = dweight.data<float>();
  with_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const T* left = dy.data<T>();
    const T* right = x.data<T>();
    run_tasks(static_cast<Index>(tiles.size()), poll, [&](Index task, int thread) {
      const OuterTile& at = tiles[static_cast<std::size_t>(task)];
      float* const result = to + (at.group * out + at.out) * in + at.in;
      const T* a = left + at.row * out + at.out;
      const T* b = right + at.row * in + at.in;
      if constexpr (std::is_same_v<T, float>) {
        sgemm(Operand::transposed, Operand::plain, at.outs, at.ins, at.rows, 1, a, out, b, in, 1, result, in);
      } else {
        float* const a_wide = scratch.data<float>() + thread * scratch.cols();
        float* const b_wide = a_wide + kOuterRows * tile_out;
        for (Index row = 0; row < at.rows; row += kOuterRows) {
          const Index count = std::min(kOuterRows, at.rows - row);
          copy_matrix(a + row * out, out, count, at.outs, a_wide, at.outs);
          copy_matrix(b + row * in, in, count, at.ins, b_wide, at.ins);
          sgemm(Operand::transposed, Operand::plain, at.outs, at.ins, count, 1, a_wide, at.outs, b_wide, at.ins, 1, result, in);
        }
      }
    });
  });
}

}  // namespace yard::ops::host
