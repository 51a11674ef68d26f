#pragma once

#include <span>
#include <string>

#include "core/tensor/tensor.h"

namespace yard::ops::host {

/// One matrix product of a floor: (m, k) times (k, n).
struct FloorProduct {
  Index m = 0, n = 0, k = 0;
  double flops() const noexcept { return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k); }
};

struct Floor {
  double seconds = 0;
  std::string library;  // the fastest one, and how it was called
};

/// The least time in which a library computes these products with all threads of this rank, operands dense, warm and where they are wanted:
/// the median of some runs of the fastest of oneDNN (sgemm, or matmul with weights plain or laid out beforehand) and, where they are
/// installed, OpenBLAS and BLIS; one product after the other on all threads, or as many at once as there are threads.
/// What else a program does beside these products is measured against it.
Floor product_floor(Stream&, std::span<const FloorProduct>, DType, int repeat);

}  // namespace yard::ops::host
