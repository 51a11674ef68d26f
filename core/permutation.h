#pragma once

#include <cstdint>

#include "core/error.h"
#include "core/random.h"
#include "core/tensor/tensor.h"

namespace yard {

/// A keyed permutation of [0, n): a Feistel network on the next even number of bits, repeated until it lands inside (cycle walking;
/// Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). Any entry costs a few mixes and no table, on every rank alike.
class Permutation {
 public:
  Permutation(std::uint64_t key, Index n) : key_(key), n_(static_cast<std::uint64_t>(n)) {
    check(n > 0, "a permutation needs at least one entry, got ", n);
    while ((std::uint64_t{1} << (2 * half_bits_)) < n_ && half_bits_ < 31) ++half_bits_;
  }

  Index operator()(Index i) const {
    auto value = static_cast<std::uint64_t>(i);
    check(value < n_, "entry ", i, " is outside of a permutation of ", n_);
    do value = network(value);
    while (value >= n_);
    return static_cast<Index>(value);
  }

 private:
  static constexpr int kRounds = 8;

  std::uint64_t network(std::uint64_t value) const {
    const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
    std::uint64_t left = value >> half_bits_;
    std::uint64_t right = value & mask;
    for (int round = 0; round < kRounds; ++round) {
      const std::uint64_t next = left ^ (key_of(key_, round, right) & mask);
      left = right;
      right = next;
    }
    return (left << half_bits_) | right;
  }

  std::uint64_t key_, n_;
  int half_bits_ = 1;
};

}  // namespace yard
