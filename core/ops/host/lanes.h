#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

#include "core/tensor/dtype.h"

namespace yard::ops::host {

inline constexpr std::size_t kLanes = 16;

/// Values side by side, as wide as the widest vectors of processors today; compilers split them where these are narrower.
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));
using WordLanes = std::uint32_t __attribute__((vector_size(kLanes * sizeof(std::uint32_t))));
using HalfLanes = std::uint16_t __attribute__((vector_size(kLanes * sizeof(std::uint16_t))));

/// A vector from anywhere in memory.
template <class Vector>
Vector load_as(const void* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
}
inline Lanes load_lanes(const float* from) { return load_as<Lanes>(from); }
inline Lanes load_lanes(const BFloat16* from) {
  return std::bit_cast<Lanes>(__builtin_convertvector(load_as<HalfLanes>(from), WordLanes) << 16U);
}
inline void store_lanes(Lanes lanes, float* to) { std::memcpy(to, &lanes, sizeof(lanes)); }

using Square = std::array<Lanes, kLanes>;

namespace detail {

/// Exchanges the off-diagonal quarters of every 2 x 2 arrangement of squares of side `Side`.
template <std::size_t Side, std::size_t... Lane>
void exchange_quarters(Square& rows, std::index_sequence<Lane...>) {
  for (std::size_t row = 0; row < kLanes; ++row) {
    if ((row & Side) != 0) continue;
    const Lanes upper = rows[row];
    const Lanes lower = rows[row + Side];
    rows[row] = __builtin_shufflevector(upper, lower, ((Lane & Side) == 0 ? Lane : Lane - Side + kLanes)...);
    rows[row + Side] = __builtin_shufflevector(upper, lower, ((Lane & Side) == 0 ? Lane + Side : Lane + kLanes)...);
  }
}

}  // namespace detail

/// The transpose of 16 x 16 values in place, in four exchanges (Eklundh 1972).
inline void transpose(Square& rows) {
  constexpr auto kAll = std::make_index_sequence<kLanes>();
  detail::exchange_quarters<8>(rows, kAll);
  detail::exchange_quarters<4>(rows, kAll);
  detail::exchange_quarters<2>(rows, kAll);
  detail::exchange_quarters<1>(rows, kAll);
}

}  // namespace yard::ops::host
