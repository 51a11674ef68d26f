#pragma once

#include <algorithm>

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
  constexpr Index kBlock = 16;
  for (Index column = 0; column < columns; column += kBlock) {
    const Index width = std::min(kBlock, columns - column);
    for (Index row = 0; row < rows; ++row) {
      const From* source = from + row * from_distance + column;
      for (Index i = 0; i < width; ++i) to[(column + i) * to_distance + row] = source[i];
    }
  }
}

}  // namespace yard::ops::host
