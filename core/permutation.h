#pragma once

#include <bit>

#include "core/random.h"
#include "core/tensor/tensor.h"

namespace yard {

/// A keyed one-to-one map of [0, n) onto itself that needs no table: an order of data that is a pure function of (key, place).
/// A Feistel network over the next power of four, walked along its cycle until it falls below n (Black and Rogaway 2002); fewer than
/// four rounds of the network on average.
class Permutation {
 public:
  Permutation(std::uint64_t key, Index n) : key_(key), n_(static_cast<std::uint64_t>(n)) {
    check(n >= 1, "a permutation needs at least one item, got ", n);
    half_ = std::max(1, (static_cast<int>(std::bit_width(n_ - 1)) + 1) / 2);
  }

  Index size() const noexcept { return static_cast<Index>(n_); }

  /// Where item i of [0, n) goes.
  Index operator()(Index i) const {
    check(i >= 0 && static_cast<std::uint64_t>(i) < n_, "item ", i, " is outside of a permutation of ", n_);
    auto place = static_cast<std::uint64_t>(i);
    do place = shuffled(place);
    while (place >= n_);
    return static_cast<Index>(place);
  }

 private:
  static constexpr int kRounds = 8;

  std::uint64_t shuffled(std::uint64_t x) const {
    const std::uint64_t mask = (std::uint64_t{1} << half_) - 1;
    std::uint64_t left = x >> half_;
    std::uint64_t right = x & mask;
    for (int round = 0; round < kRounds; ++round) {
      const std::uint64_t mixed = left ^ (key_of(key_, round, right) & mask);
      left = right;
      right = mixed;
    }
    return (left << half_) | right;
  }

  std::uint64_t key_;
  std::uint64_t n_;
  int half_;  // bits of each half of the network
};

}  // namespace yard
