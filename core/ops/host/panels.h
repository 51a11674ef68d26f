#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "core/tensor/tensor.h"

namespace yard::ops::host {

/// The columns of a result cut into panels of nearly equal width, about `values` weights each, so that the weights of a panel stay in a
/// core's cache while tiles of rows pass by. Depends on the matrix alone, never on rows or threads: results must not.
struct Panels {
  Index columns = 0, width = 0, count = 0;

  Panels(Index result_columns, Index depth, Index values, Index narrowest) : columns(result_columns) {
    const Index wanted = std::max(values / depth, narrowest);
    count = (columns + wanted - 1) / wanted;
    width = ((columns + count - 1) / count + 63) / 64 * 64;
    count = (columns + width - 1) / width;
    width = std::min(width, columns);
  }
  Index first(Index panel) const noexcept { return panel * width; }
  Index width_of(Index panel) const noexcept { return std::min(width, columns - first(panel)); }
};

/// A panel of the result for some rows of one group: what one thread works on at a time.
struct RowTile {
  Index group, row, rows, panel;
};

/// The tiles of all groups; neighbours share their panel of weights.
inline std::vector<RowTile> row_tiles(std::span<const Index> rows_per_group, Index tile_rows, Index panels) {
  std::vector<RowTile> tiles;
  Index start = 0;
  for (Index group = 0; group < static_cast<Index>(rows_per_group.size()); ++group) {
    const Index rows = rows_per_group[static_cast<std::size_t>(group)];
    for (Index panel = 0; panel < panels; ++panel) {
      for (Index row = 0; row < rows; row += tile_rows) tiles.push_back({group, start + row, std::min(tile_rows, rows - row), panel});
    }
    start += rows;
  }
  return tiles;
}

/// A tile of a weight gradient, entries [out, out + outs) x [in, in + ins), and the rows of its group: one thread adds all of them up, so
/// that their order is fixed.
struct OuterTile {
  Index group, row, rows, out, outs, in, ins;
};

inline std::vector<OuterTile> outer_tiles(std::span<const Index> rows_per_group, Index out, Index in, Index tile_out, Index tile_in) {
  std::vector<OuterTile> tiles;
  Index start = 0;
  for (Index group = 0; group < static_cast<Index>(rows_per_group.size()); ++group) {
    const Index rows = rows_per_group[static_cast<std::size_t>(group)];
    if (rows > 0) {
      for (Index j = 0; j < in; j += tile_in) {
        for (Index i = 0; i < out; i += tile_out) {
          tiles.push_back({group, start, rows, i, std::min(tile_out, out - i), j, std::min(tile_in, in - j)});
        }
      }
    }
    start += rows;
  }
  return tiles;
}

}  // namespace yard::ops::host
