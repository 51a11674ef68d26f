#include "core/device/cpu.h"

#include <array>
#include <cstdint>
#include <cstring>

#if __has_include(<cpuid.h>)
#include <cpuid.h>
#endif

namespace yard {
namespace {

struct Registers {
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
};

#if __has_include(<cpuid.h>)
Registers cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d) == 0) return {};
  return r;
}

/// The register states that the operating system saves (XCR0); without its leave the vectors of a feature cannot be used.
std::uint64_t saved_states() {
  if ((cpuid(1, 0).c & (1U << 27)) == 0) return 0;
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}
#else
Registers cpuid(std::uint32_t, std::uint32_t) { return {}; }
std::uint64_t saved_states() { return 0; }
#endif

constexpr std::uint64_t kAvx512States = 0xe6;      // SSE, AVX, mask registers, upper halves, upper sixteen
constexpr std::uint64_t kTileStates = 3ULL << 17;  // tile configuration and tile data

}  // namespace

bool has_amx_bf16() {
  const std::uint32_t features = cpuid(7, 0).d;  // bit 22: AMX-BF16, bit 24: AMX-TILE
  return (features & (1U << 22)) != 0 && (features & (1U << 24)) != 0 && (saved_states() & kTileStates) == kTileStates;
}

bool has_fast_bf16() {
  if (has_amx_bf16()) return true;
  const bool foundation = (cpuid(7, 0).b & (1U << 16)) != 0;
  const bool bf16 = (cpuid(7, 1).a & (1U << 5)) != 0;
  return foundation && bf16 && (saved_states() & kAvx512States) == kAvx512States;
}

std::string processor_name() {
  if (cpuid(0x80000000U, 0).a < 0x80000004U) return "unknown processor";
  std::array<char, 49> text{};
  for (std::uint32_t part = 0; part < 3; ++part) {
    const Registers r = cpuid(0x80000002U + part, 0);
    std::memcpy(text.data() + 16 * part, &r, sizeof(r));
  }
  std::string name(text.data());
  const auto first = name.find_first_not_of(' ');
  if (first == std::string::npos) return "unknown processor";
  return name.substr(first, name.find_last_not_of(' ') - first + 1);
}

}  // namespace yard
