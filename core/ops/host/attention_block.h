#pragma once

#include <algorithm>

#include "core/ops/attention.h"
#include "core/ops/host/gemm.h"
#include "core/ops/host/layout.h"
#include "core/ops/host/tasks.h"

namespace yard::ops::host {

inline constexpr Index kBlockRows = 64;  // query rows worked on at a time: the scores of a block stay in a core's cache
inline constexpr Index kPadding = 16;    // rows of a product are a multiple of this

inline Index padded(Index rows) { return (rows + kPadding - 1) / kPadding * kPadding; }

/// A block of query rows [row, row + rows) of a sequence, which see its keys [first, end); of these, row r sees [start(r), offset + row +
/// r].
struct AttentionBlock {
  Index row, rows, first, end;
  Index offset = 0;                         // the entry of the sequence's row 0
  const std::int32_t* positions = nullptr;  // of the sequence's rows; none: every row sees from entry 0

  Index entry(Index r) const { return offset + row + r; }
  Index start(Index r) const { return positions == nullptr ? 0 : entry(r) - positions[row + r]; }
  Index keys() const { return end - first; }
};

inline AttentionBlock block_at(Index number, Index rows, Index offset, const std::int32_t* positions) {
  AttentionBlock block{number * kBlockRows, std::min(kBlockRows, rows - number * kBlockRows), 0, 0, offset, positions};
  block.end = block.entry(block.rows);
  block.first = block.end;
  for (Index r = 0; r < block.rows; ++r) {
    const Index start = block.start(r);
    check(start >= 0 && start <= block.entry(r), "row ", block.entry(r), " of a sequence cannot be at position ", block.entry(r) - start);
    block.first = std::min(block.first, start);
  }
  block.first = block.first / kPadding * kPadding;
  return block;
}

/// Queries of a head as f32, times the scale, with rows of zeros up to a multiple of kPadding.
template <class T>
void load_rows(const T* from, Index distance, Index rows, Index width, float factor, float* to) {
  copy_matrix(from, distance, rows, width, to, width, factor);
  std::fill(to + rows * width, to + padded(rows) * width, 0.0F);
}

}  // namespace yard::ops::host
