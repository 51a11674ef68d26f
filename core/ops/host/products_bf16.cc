#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "core/ops/host/gemm.h"
#include "core/ops/host/panels.h"
#include "core/ops/host/products.h"
#include "core/ops/host/tasks.h"

namespace yard::ops::host {
namespace {

constexpr Index kTileRows = 128;
constexpr std::array<Index, 4> kPieces{128, 64, 32, 16};  // a remainder is made of these, the last one padded: few products to compile
// Rows that one product of a weight gradient sums: kOuterRows of many, then a multiple of kOuterPiece, then what is left, filled up to a
// multiple of kOuterStep: few products to compile.
constexpr Index kOuterRows = 1024;
constexpr Index kOuterPiece = 128;
constexpr Index kOuterStep = 16;

Index outer_piece(Index rows) { return rows < kOuterPiece ? rows : std::min(rows / kOuterPiece * kOuterPiece, kOuterRows); }

/// Narrow results are one panel and stored where they belong; wider ones go through scratch, so a panel is wide.
Panels panels_of(Index columns, Index depth) { return {columns, depth, 384 * 2048, 1024}; }

/// Where the panels of one group lie in the library's own order, in bytes.
struct Layout {
  Panels panels;
  Index depth;
  std::size_t step, bytes;
  Layout(Bf16Products& products, Index columns, Index rows) : panels(panels_of(columns, rows)), depth(rows) {
    step = products.packed_bytes(depth, panels.width);
    bytes = step * static_cast<std::size_t>(panels.count - 1) + products.packed_bytes(depth, panels.width_of(panels.count - 1));
  }
  Index values() const { return static_cast<Index>(bytes / sizeof(BFloat16)); }
};

/// Lays out matrices that lie one after another, their entry (i, j) read at i * row_step + j * column_step; group g only if wanted(g).
template <class Wanted>
void lay_out(Bf16Products& products, const Layout& layout, const BFloat16* from, Index groups, Index row_step, Index column_step,
             std::byte* to, const Wanted& wanted) {
  const Index count = layout.panels.count;
  run_tasks(groups * count, [&](Index task, int) {
    const Index group = task / count;
    const Index panel = task % count;
    if (!wanted(group)) return;
    const BFloat16* const matrix = from + group * layout.depth * layout.panels.columns;
    products.pack(layout.depth, layout.panels.width_of(panel), matrix + layout.panels.first(panel) * column_step, row_step, column_step,
                  to + static_cast<std::size_t>(group) * layout.bytes + static_cast<std::size_t>(panel) * layout.step);
  });
}

/// What is laid out in passing at a time, to be used once and soon: always for the backward direction, and for the forward one of few rows,
/// whose copy else stays for the whole step.
constexpr std::size_t kPassingBytes = std::size_t{8} << 20;

/// What a tile's products have in common.
struct Operands {
  const std::byte* weights;
  Index width, depth, y_distance;
  DType out;
};

void multiply_tile(const Operands& by, const BFloat16* x, Index rows, std::byte* y, Bf16Runner& runner, BFloat16* x_scratch,
                   std::byte* y_scratch) {
  const std::size_t y_row = static_cast<std::size_t>(by.y_distance) * size_of(by.out);
  const std::size_t width = static_cast<std::size_t>(by.width) * size_of(by.out);
  while (rows > 0) {
    Index piece = kPieces.back();
    for (const Index size : kPieces) {
      if (rows >= size) {
        piece = size;
        break;
      }
    }
    const Index real = std::min(piece, rows);
    const BFloat16* from = x;
    if (real < piece) {
      std::copy_n(x, real * by.depth, x_scratch);
      std::fill(x_scratch + real * by.depth, x_scratch + piece * by.depth, BFloat16{});
      from = x_scratch;
    }
    std::byte* const to = real == piece && width == y_row ? y : y_scratch;
    runner.run({.m = piece, .n = by.width, .k = by.depth, .b_is = Operand::packed, .out = by.out}, from, by.weights, to);
    if (to == y_scratch) {
      for (Index row = 0; row < real; ++row) {
        std::memcpy(y + static_cast<std::size_t>(row) * y_row, y_scratch + static_cast<std::size_t>(row) * width, width);
      }
    }
    rows -= real;
    x += real * by.depth;
    y += static_cast<std::size_t>(real) * y_row;
  }
}

/// Rows of a weight gradient's tile: many where there is enough work for many threads, since each tile lays out x anew.
Index outer_out(Index groups, Index out, Index in) {
  const Index values = groups * out * in;
  return values >= 32 * 512 * 512 ? 512 : values >= 8 * 512 * 512 ? 256 : values >= 2 * 512 * 512 ? 128 : 64;
}

}  // namespace

namespace {

/// The products of groups whose panels lie at `packed`.
void multiply_groups(Stream& stream, const Layout& layout, const std::byte* packed, const Tensor& x, std::span<const Index> rows,
                     const Tensor& y, const std::function<void()>& poll) {
  const Panels& panels = layout.panels;
  const Index depth = x.cols();
  const Index columns = y.cols();
  const auto tiles = row_tiles(rows, kTileRows, panels.count);
  auto runners = one_for_each_thread<Bf16Runner>(stream);
  const Tensor x_scratch(stream, {team_size(), kPieces.back() * depth}, DType::bf16);
  const Tensor y_scratch(stream, {team_size(), kTileRows * panels.width}, y.dtype());
  const std::size_t value = size_of(y.dtype());
  run_tasks(static_cast<Index>(tiles.size()), poll, [&](Index task, int thread) {
    const RowTile& tile = tiles[static_cast<std::size_t>(task)];
    const Operands by{packed + static_cast<std::size_t>(tile.group) * layout.bytes + static_cast<std::size_t>(tile.panel) * layout.step,
                      panels.width_of(tile.panel), depth, columns, y.dtype()};
    auto* const to = static_cast<std::byte*>(y.raw()) + static_cast<std::size_t>(tile.row * columns + panels.first(tile.panel)) * value;
    multiply_tile(by, x.data<BFloat16>() + tile.row * depth, tile.rows, to, runners[static_cast<std::size_t>(thread)],
                  x_scratch.data<BFloat16>() + thread * x_scratch.cols(),
                  static_cast<std::byte*>(y_scratch.raw()) + static_cast<std::size_t>(thread * y_scratch.cols()) * value);
  });
}

}  // namespace

void multiply_bf16(Stream& stream, const Tensor& x, const Weights& weights, Direction direction, std::span<const Index> rows,
                   const Tensor& y, const std::function<void()>& poll) {
  auto& products = stream.kept<Bf16Products>();
  const Index in = weights.in();
  const Index out = weights.out();
  const auto* const values = weights.value().data<BFloat16>();
  const bool forward = direction == Direction::forward;
  const Layout layout = forward ? Layout(products, out, in) : Layout(products, in, out);
  const Index row_step = forward ? 1 : in;
  const Index column_step = forward ? in : 1;
  const auto groups = static_cast<Index>(rows.size());
  if (forward && !few_rows(rows)) {
    const Tensor& packed = weights.packed([&] {
      Tensor copy(stream, {groups, layout.values()}, DType::bf16);
      lay_out(products, layout, values, groups, row_step, column_step, static_cast<std::byte*>(copy.raw()), [](Index) { return true; });
      return copy;
    });
    return multiply_groups(stream, layout, static_cast<const std::byte*>(packed.raw()), x, rows, y, poll);
  }
  const Index at_once = std::clamp<Index>(static_cast<Index>(kPassingBytes / layout.bytes), 1, groups);
  const Tensor packed(stream, {at_once, layout.values()}, DType::bf16);
  auto* const to = static_cast<std::byte*>(packed.raw());
  Index row = 0;
  for (Index first = 0; first < groups; first += at_once) {
    const auto some = rows.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(std::min(at_once, groups - first)));
    const Index count = std::accumulate(some.begin(), some.end(), Index{0});
    if (count == 0) continue;
    lay_out(products, layout, values + first * in * out, static_cast<Index>(some.size()), row_step, column_step, to,
            [&](Index group) { return some[static_cast<std::size_t>(group)] > 0; });
    multiply_groups(stream, layout, to, x.row_range(row, count), some, y.row_range(row, count), poll);
    row += count;
  }
}

void add_outer_bf16(Stream& stream, const Tensor& dy, const Tensor& x, std::span<const Index> rows, const Tensor& dweight,
                    const std::function<void()>& poll) {
  const Index out = dy.cols();
  const Index in = x.cols();
  const Index tile_out = std::min(out, outer_out(static_cast<Index>(rows.size()), out, in));
  const auto tiles = outer_tiles(rows, out, in, tile_out, in);
  auto runners = one_for_each_thread<Bf16Runner>(stream);
  const Tensor a_scratch(stream, {team_size(), kOuterRows * tile_out}, DType::bf16);
  const Tensor b_scratch(stream, {team_size(), kOuterPiece * in}, DType::bf16);  // only what is left of many rows is filled up
  run_tasks(static_cast<Index>(tiles.size()), poll, [&](Index task, int thread) {
    const OuterTile& at = tiles[static_cast<std::size_t>(task)];
    Bf16Runner& runner = runners[static_cast<std::size_t>(thread)];
    BFloat16* const a_part = a_scratch.data<BFloat16>() + thread * a_scratch.cols();
    BFloat16* const b_part = b_scratch.data<BFloat16>() + thread * b_scratch.cols();
    for (Index done = 0; done < at.rows;) {
      const Index real = outer_piece(at.rows - done);
      const Index depth = (real + kOuterStep - 1) / kOuterStep * kOuterStep;
      const BFloat16* a = dy.data<BFloat16>() + (at.row + done) * out + at.out;
      const BFloat16* b = x.data<BFloat16>() + (at.row + done) * in;
      if (real < depth || at.outs < out) {
        for (Index row = 0; row < real; ++row) std::copy_n(a + row * out, at.outs, a_part + row * at.outs);
        std::fill(a_part + real * at.outs, a_part + depth * at.outs, BFloat16{});
        a = a_part;
      }
      if (real < depth) {
        std::copy_n(b, real * in, b_part);
        std::fill(b_part + real * in, b_part + depth * in, BFloat16{});
        b = b_part;
      }
      const Bf16Shape shape{.m = at.outs, .n = in, .k = depth, .a_is = Operand::transposed, .out = DType::f32, .accumulate = true};
      runner.run(shape, a, b, dweight.data<float>() + (at.group * out + at.out) * in);
      done += real;
    }
  });
}

}  // namespace yard::ops::host
