#include <algorithm>
#include <array>
#include <cstring>

#include "core/ops/host/gemm.h"
#include "core/ops/host/panels.h"
#include "core/ops/host/products.h"
#include "core/ops/host/tasks.h"

namespace yard::ops::host {
namespace {

constexpr Index kTileRows = 128;
constexpr std::array<Index, 4> kPieces{128, 64, 32, 16};  // a remainder is made of these, the last one padded: few products to compile
constexpr Index kOuterRows = 512;                         // rows that one product of a weight gradient sums
constexpr Index kOuterStep = 16;                          // and its remainder is a multiple of this

/// Narrow results are one panel and stored where they belong; wider ones go through scratch, so a panel is wide.
Panels panels_of(Index columns, Index depth) { return {columns, depth, 384 * 2048, 1024}; }

std::vector<Bf16Runner> one_for_each_thread(Stream& stream) {
  std::vector<Bf16Runner> result;
  for (int thread = 0; thread < team_size(); ++thread) result.emplace_back(stream);
  return result;
}

/// Where the panels of one group lie in the packed copy, in bytes: those of the forward direction, then those of the backward one.
struct Layout {
  Panels forward, backward;
  std::size_t forward_step = 0, backward_step = 0, backward_start = 0, bytes = 0;
  Layout(Bf16Products& products, Index out, Index in) : forward(panels_of(out, in)), backward(panels_of(in, out)) {
    const auto size = [&](const Panels& panels, Index depth, std::size_t& step) {
      step = products.packed_bytes(depth, panels.width);
      return step * static_cast<std::size_t>(panels.count - 1) + products.packed_bytes(depth, panels.width_of(panels.count - 1));
    };
    backward_start = size(forward, in, forward_step);
    bytes = backward_start + size(backward, out, backward_step);
  }
  std::size_t at(Direction direction, Index panel) const {
    const auto number = static_cast<std::size_t>(panel);
    return direction == Direction::forward ? forward_step * number : backward_start + backward_step * number;
  }
};

/// What a tile's products have in common.
struct Operands {
  const std::byte* weights;
  Index width, depth, y_distance;
  DType out;
};

void multiply_tile(Bf16Products& products, const Operands& by, const BFloat16* x, Index rows, std::byte* y, Bf16Runner& runner,
                   BFloat16* x_scratch, std::byte* y_scratch) {
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
    const Bf16Product& product = products.of({.m = piece, .n = by.width, .k = by.depth, .b_is_packed = true, .out = by.out});
    runner.run(product, from, by.weights, to);
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

void pack_bf16(Stream& stream, const Tensor& value, Index groups, Tensor& packed) {
  const Index out = value.rows() / groups;
  const Index in = value.cols();
  auto& products = stream.kept<Bf16Products>();
  const Layout layout(products, out, in);
  if (!packed.defined()) packed = Tensor(stream, {groups, static_cast<Index>(layout.bytes / sizeof(BFloat16))}, DType::bf16);
  const BFloat16* const from = value.data<BFloat16>();
  auto* const to = static_cast<std::byte*>(packed.raw());
  const Index both = layout.forward.count + layout.backward.count;
  run_tasks(groups * both, [&](Index task, int) {
    const Index group = task / both;
    const Index panel = task % both;
    std::byte* const start = to + static_cast<std::size_t>(group) * layout.bytes;
    const BFloat16* const matrix = from + group * out * in;
    if (panel < layout.forward.count) {
      products.pack(in, layout.forward.width_of(panel), matrix + layout.forward.first(panel) * in, 1, in,
                    start + layout.at(Direction::forward, panel));
    } else {
      const Index back = panel - layout.forward.count;
      products.pack(out, layout.backward.width_of(back), matrix + layout.backward.first(back), in, 1,
                    start + layout.at(Direction::backward, back));
    }
  });
}

void multiply_bf16(Stream& stream, const Tensor& x, const Weights& weights, Direction direction, std::span<const Index> rows,
                   const Tensor& y, const std::function<void()>& poll) {
  auto& products = stream.kept<Bf16Products>();
  const Layout layout(products, weights.out(), weights.in());
  const Panels& panels = direction == Direction::forward ? layout.forward : layout.backward;
  const Index depth = x.cols();
  const Index columns = y.cols();
  const auto tiles = row_tiles(rows, kTileRows, panels.count);
  auto runners = one_for_each_thread(stream);
  const Tensor x_scratch(stream, {team_size(), kPieces.back() * depth}, DType::bf16);
  const Tensor y_scratch(stream, {team_size(), kTileRows * panels.width}, y.dtype());
  const auto* const packed = static_cast<const std::byte*>(weights.packed().raw());
  const std::size_t value = size_of(y.dtype());
  run_tasks(static_cast<Index>(tiles.size()), poll, [&](Index task, int thread) {
    const RowTile& tile = tiles[static_cast<std::size_t>(task)];
    const Operands by{packed + static_cast<std::size_t>(tile.group) * layout.bytes + layout.at(direction, tile.panel),
                      panels.width_of(tile.panel), depth, columns, y.dtype()};
    auto* const to = static_cast<std::byte*>(y.raw()) + static_cast<std::size_t>(tile.row * columns + panels.first(tile.panel)) * value;
    multiply_tile(products, by, x.data<BFloat16>() + tile.row * depth, tile.rows, to, runners[static_cast<std::size_t>(thread)],
                  x_scratch.data<BFloat16>() + thread * x_scratch.cols(),
                  static_cast<std::byte*>(y_scratch.raw()) + static_cast<std::size_t>(thread * y_scratch.cols()) * value);
  });
}

void add_outer_bf16(Stream& stream, const Tensor& dy, const Tensor& x, std::span<const Index> rows, const Tensor& dweight,
                    const std::function<void()>& poll) {
  const Index out = dy.cols();
  const Index in = x.cols();
  const Index tile_out = std::min(out, outer_out(static_cast<Index>(rows.size()), out, in));
  const auto tiles = outer_tiles(rows, out, in, tile_out, in);
  auto& products = stream.kept<Bf16Products>();
  auto runners = one_for_each_thread(stream);
  const Tensor a_scratch(stream, {team_size(), kOuterRows * tile_out}, DType::bf16);
  const Tensor b_scratch(stream, {team_size(), kOuterRows * in}, DType::bf16);
  run_tasks(static_cast<Index>(tiles.size()), poll, [&](Index task, int thread) {
    const OuterTile& at = tiles[static_cast<std::size_t>(task)];
    Bf16Runner& runner = runners[static_cast<std::size_t>(thread)];
    BFloat16* const a_part = a_scratch.data<BFloat16>() + thread * a_scratch.cols();
    BFloat16* const b_part = b_scratch.data<BFloat16>() + thread * b_scratch.cols();
    for (Index done = 0; done < at.rows;) {
      const Index real = std::min(kOuterRows, at.rows - done);
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
      const Bf16Product& product =
          products.of({.m = at.outs, .n = in, .k = depth, .a_is = Operand::transposed, .out = DType::f32, .accumulate = true});
      runner.run(product, a, b, dweight.data<float>() + (at.group * out + at.out) * in);
      done += real;
    }
  });
}

}  // namespace yard::ops::host
