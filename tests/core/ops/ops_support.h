#pragma once

#include <omp.h>

#include <bit>
#include <cmath>

#include "tests/support/support.h"

namespace yard::test {

inline const Shape kShapes[] = {{0, 8}, {1, 8}, {1, 1}, {5, 33}, {67, 100}, {3, 1030}};  // none, one and uneven rows; long ones

/// What `body` returns when OpenMP may use that many threads.
template <class Body>
auto with_threads(int threads, const Body& body) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  auto result = body();
  omp_set_num_threads(before);
  return result;
}

/// The whole number that counts the bf16 values from zero to this one.
inline int steps_from_zero(BFloat16 value) {
  const int size = value.bits & 0x7fff;
  return (value.bits & 0x8000) != 0 ? -size : size;
}

/// Fails unless every value is the f64 one rounded to bf16 or a neighbour of it (or within 1e-6 of the largest, where terms cancel).
inline void expect_rounded(const Tensor& actual, std::span<const double> expected, const std::string& what) {
  ASSERT_EQ(actual.dtype(), DType::bf16) << what;
  ASSERT_EQ(static_cast<std::size_t>(actual.elements()), expected.size()) << what;
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  std::size_t exact = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const BFloat16 got = actual.values<BFloat16>()[i];
    const int apart = std::abs(steps_from_zero(got) - steps_from_zero(BFloat16(static_cast<float>(expected[i]))));
    exact += apart == 0 ? 1U : 0U;
    if (apart > 1 && std::abs(static_cast<double>(static_cast<float>(got)) - expected[i]) > 1e-6 * largest) {
      FAIL() << what << ": entry " << i << " is " << static_cast<float>(got) << ", expected " << expected[i] << " rounded once";
    }
  }
  EXPECT_GE(static_cast<double>(exact), 0.98 * static_cast<double>(expected.size())) << what << ": hardly ever the nearest value";
}

/// The value of `term` at the f64 values plus a small step: what numeric_gradient differentiates.
inline double inner(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

inline std::string text(const Shape& shape, DType dtype) { return shape.text() + " " + std::string(name_of(dtype)); }

}  // namespace yard::test
