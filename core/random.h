#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace yard {

/// Mixes 64 bits so that every output bit depends on every input bit (the finaliser of splitmix64, Steele et al. 2014).
constexpr std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// One key from several numbers; the order matters.
template <class... Words>
constexpr std::uint64_t key_of(std::uint64_t first, Words... rest) {
  std::uint64_t key = mix(first);
  ((key = mix(key ^ (static_cast<std::uint64_t>(rest) * 0xff51afd7ed558ccdULL + 1))), ...);
  return key;
}

/// A key from a name (FNV-1a), for values that belong to a parameter of that name.
constexpr std::uint64_t key_of(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return mix(hash);
}

/// A counter-based generator (Philox 4x32-10, Salmon et al. 2011): the i-th draw is a pure function of (key, i), so that no
/// value depends on which rank or thread asks for it, or in what order.
class Random {
 public:
  constexpr explicit Random(std::uint64_t key) : key_(key) {}

  /// Four draws at once; `high` is the upper half of the generator's 128-bit counter.
  constexpr std::array<std::uint32_t, 4> block(std::uint64_t counter, std::uint64_t high = 0) const {
    std::array<std::uint32_t, 4> c = {static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
                                      static_cast<std::uint32_t>(high), static_cast<std::uint32_t>(high >> 32)};
    auto k0 = static_cast<std::uint32_t>(key_);
    auto k1 = static_cast<std::uint32_t>(key_ >> 32);
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t p0 = 0xD2511F53ULL * c[0];
      const std::uint64_t p1 = 0xCD9E8D57ULL * c[2];
      c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
           static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
      k0 += 0x9E3779B9U;
      k1 += 0xBB67AE85U;
    }
    return c;
  }

  constexpr std::uint64_t bits(std::uint64_t i) const {
    const auto b = block(i);
    return (static_cast<std::uint64_t>(b[1]) << 32) | b[0];
  }
  /// Uniform in [0, 1).
  constexpr float uniform(std::uint64_t i) const { return static_cast<float>(block(i)[0] >> 8) * 0x1p-24F; }
  /// Standard normal (Box and Muller 1958).
  float normal(std::uint64_t i) const {
    const auto b = block(i);
    const double u = (static_cast<double>(b[0]) + 1.0) * 0x1p-32;  // in (0, 1]
    const double v = static_cast<double>(b[1]) * 0x1p-32;
    return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v));
  }

 private:
  std::uint64_t key_;
};

}  // namespace yard
