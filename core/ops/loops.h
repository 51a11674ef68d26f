#pragma once

#include <omp.h>

#include <algorithm>

#include "core/tensor/tensor.h"

namespace yard::ops {

/// Elementary operations below which waking the other threads costs more than it saves.
inline constexpr Index kParallelWork = Index{1} << 15;

/// Calls body(first, last) on contiguous ranges that cover [0, count), one a thread, cut at multiples of `grain`. `cost` is the number of
/// elementary operations of one item; a small total is done by the calling thread. The body must not throw, and what it computes for an
/// item must not depend on where the ranges are cut.
template <class Body>
void parallel_ranges(Index count, Index cost, Index grain, const Body& body) {
  const Index units = (count + grain - 1) / grain;
  if (units <= 1 || count * cost < kParallelWork || omp_get_max_threads() == 1) {
    if (count > 0) body(Index{0}, count);
    return;
  }
#pragma omp parallel
  {
    const Index threads = omp_get_num_threads();
    const Index thread = omp_get_thread_num();
    const Index first = units * thread / threads * grain;
    const Index last = std::min(count, units * (thread + 1) / threads * grain);
    if (first < last) body(first, last);
  }
}

/// The sum of term(0) ... term(count - 1) in T, in an order that only `count` decides: 32 lanes side by side, then a tree over the lanes.
/// Terms may have effects of their own as long as they do not depend on each other.
template <class T = float, class Term>
T lane_sum(Index count, const Term& term) {
  constexpr int kLanes = 32;
  T lanes[kLanes] = {};
  Index i = 0;
  for (; i + kLanes <= count; i += kLanes) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  }
  for (int lane = 0; i < count; ++i, ++lane) lanes[lane] += term(i);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

/// The largest of `floor` and term(0) ... term(count - 1); a NaN is passed over.
template <class T, class Term>
T lane_max(Index count, T floor, const Term& term) {
  constexpr int kLanes = 32;
  T lanes[kLanes];
  std::fill_n(lanes, kLanes, floor);
  const auto take = [](T& largest, T value) { largest = largest < value ? value : largest; };
  Index i = 0;
  for (; i + kLanes <= count; i += kLanes) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) take(lanes[lane], term(i + lane));
  }
  for (int lane = 0; i < count; ++i, ++lane) take(lanes[lane], term(i));
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) take(lanes[lane], lanes[lane + half]);
  }
  return lanes[0];
}

/// Throws unless every value of `values` (i32) lies in [low, high), naming the first that does not: "`what` 3 is -2, ...".
void check_range(const Tensor& values, std::int32_t low, Index high, const char* what);

}  // namespace yard::ops
