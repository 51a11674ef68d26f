#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace yard {

enum class DType : std::uint8_t { f32, bf16, f64, i32, i64 };

/// The upper half of an f32: 8 exponent bits, 7 of fraction. Rounds to nearest, ties to even. What is constexpr here, kernels on a GPU
/// call.
struct BFloat16 {
  std::uint16_t bits = 0;
  BFloat16() = default;
  constexpr BFloat16(float value) : bits(rounded(value)) {}  // NOLINT(google-explicit-constructor): kernels store f32 results
  /// Without this, assigning a float would copy a temporary, which keeps g++ 12 from vectorising loops under `omp simd`.
  constexpr BFloat16& operator=(float value) {
    bits = rounded(value);
    return *this;
  }
  constexpr operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }  // NOLINT(google-explicit-constructor)

  /// The bits of the nearest value.
  static constexpr std::uint16_t rounded(float value) {
    const auto word = std::bit_cast<std::uint32_t>(value);
    const bool nan = (word & 0x7fffffffU) > 0x7f800000U;
    return static_cast<std::uint16_t>((nan ? word | 0x400000U : word + 0x7fffU + ((word >> 16) & 1U)) >> 16);
  }
};
static_assert(sizeof(BFloat16) == 2);

/// A value as it reads back after storing it in a T.
template <class T>
constexpr float stored_in(float value) {
  if constexpr (sizeof(T) == sizeof(BFloat16)) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(BFloat16::rounded(value)) << 16);
  } else {
    return value;
  }
}

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType value = DType::i64;
};

constexpr std::size_t size_of(DType type) {
  switch (type) {
    case DType::bf16:
      return 2;
    case DType::f32:
    case DType::i32:
      return 4;
    default:
      return 8;
  }
}

constexpr std::string_view name_of(DType type) {
  switch (type) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f64:
      return "f64";
    case DType::i32:
      return "i32";
    default:
      return "i64";
  }
}

}  // namespace yard
