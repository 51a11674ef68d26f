#pragma once

#include <algorithm>

#include "core/ops/host/lanes.h"
#include "core/tensor/tensor.h"

namespace yard::ops::host {

/// Copies of matrices between types and orders; a distance is the number of values from one row to the next.

/// How far apart rows of this length should lie in scratch: distances of large powers of two share the same few lines of a cache.
inline Index distance_of(Index length) { return length % 256 == 0 ? length + 16 : length; }

/// to = factor * from, rounded once.
template <class From, class To>
void copy_matrix(const From* from, Index from_distance, Index rows, Index columns, To* to, Index to_distance, float factor = 1) {
  for (Index row = 0; row < rows; ++row) {
    const From* source = from + row * from_distance;
    To* target = to + row * to_distance;
#pragma omp simd
    for (Index i = 0; i < columns; ++i) target[i] = factor * static_cast<float>(source[i]);
  }
}

/// to = from^T.                                                     from: (rows, columns)  to: (columns, rows) f32
template <class From>
void transpose_matrix(const From* from, Index from_distance, Index rows, Index columns, float* to, Index to_distance) {
  constexpr auto kSide = static_cast<Index>(kLanes);
  const Index whole_rows = rows / kSide * kSide;
  const Index whole_columns = columns / kSide * kSide;
  Square square;
  for (Index row = 0; row < whole_rows; row += kSide) {
    for (Index column = 0; column < whole_columns; column += kSide) {
      for (Index i = 0; i < kSide; ++i) square[static_cast<std::size_t>(i)] = load_lanes(from + (row + i) * from_distance + column);
      transpose(square);
      for (Index i = 0; i < kSide; ++i) store_lanes(square[static_cast<std::size_t>(i)], to + (column + i) * to_distance + row);
    }
  }
  for (Index row = 0; row < rows; ++row) {
    for (Index column = row < whole_rows ? whole_columns : 0; column < columns; ++column) {
      to[column * to_distance + row] = from[row * from_distance + column];
    }
  }
}

}  // namespace yard::ops::host
