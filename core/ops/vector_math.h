#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace yard::ops {

/// Elementary functions in f32 that compilers vectorise in loops: no calls, no branches, no tables. Relative errors are a few units in the
/// last place (tests/core/ops/vector_math_test.cc bounds them); NaN stays NaN. Polynomials are minimax fits of relative error.

/// e^x; 0 below -104, infinity above 89. Reduction to |r| <= ln(2)/2 after Cody and Waite 1980.
inline float vexp(float x) {
  constexpr float kRound = 0x1.8p23F;  // adding it leaves the nearest whole number in the low bits
  const float low = x < -104.0F ? -104.0F : x;
  const float bounded = low > 89.0F ? 89.0F : low;
  const float shifted = bounded * 1.44269504F + kRound;
  const float whole = shifted - kRound;
  const float r = (bounded - whole * 0.693359375F) - whole * -2.12194440e-4F;
  float q = 0.00138145985F;
  q = q * r + 0.00836871689F;
  q = q * r + 0.041668388F;
  q = q * r + 0.166665206F;
  q = q * r + 0.499999934F;
  const float value = 1.0F + (r + r * r * q);
  // 2^whole in two factors: one alone cannot say 2^128 nor 2^-149.
  const auto power = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(kRound));
  const std::int32_t half = power >> 1;
  const auto scale = [](std::int32_t exponent) { return std::bit_cast<float>((static_cast<std::uint32_t>(exponent) + 127U) << 23); };
  return value * scale(half) * scale(static_cast<std::int32_t>(static_cast<std::uint32_t>(power) - static_cast<std::uint32_t>(half)));
}

/// 1 / (1 + e^-x)
inline float vsigmoid(float x) { return 1.0F / (1.0F + vexp(-x)); }

inline float vtanh(float x) {
  const float z = x * x;
  float q = -0.00570498716F;
  q = q * z + 0.0206390874F;
  q = q * z + -0.0537397151F;
  q = q * z + 0.133314422F;
  q = q * z + -0.333332819F;
  const float near = x + x * z * q;
  const float size = std::fabs(x);
  const float far = std::copysign(1.0F - 2.0F / (vexp(2.0F * size) + 1.0F), x);
  return size < 0.625F ? near : far;
}

/// The standard normal distribution beyond x >= 0: erfc(x / sqrt(2)) / 2 = e^(-x^2/2) t P(t), t = 1 / (1 + 11/32 x). 0 from 14 on.
inline float vnormal_tail(float x) {
  const float bounded = x > 14.0F ? 14.0F : x;
  const float t = 1.0F / (1.0F + 0.34375F * bounded);
  float p = -0.0281484276F;
  p = p * t + 0.145407623F;
  p = p * t + -0.274745806F;
  p = p * t + 0.194171873F;
  p = p * t + -0.0414021104F;
  p = p * t + 0.113486222F;
  p = p * t + 0.116544853F;
  p = p * t + 0.137567445F;
  p = p * t + 0.137118324F;
  // What rounding takes off x^2 would be a relative error of the exponential: it is found by Dekker's product (1971) and put back.
  const float square = bounded * bounded;
  const float high = std::bit_cast<float>(std::bit_cast<std::uint32_t>(bounded) & 0xfffff000U);
  const float low = bounded - high;
  const float lost = ((high * high - square) + 2.0F * high * low) + low * low;
  const float density = vexp(-0.5F * square) * (1.0F - 0.5F * lost);
  return density * t * p;
}

/// The standard normal distribution function, relatively accurate in both tails.
inline float vnormal_cdf(float x) {
  const float tail = vnormal_tail(std::fabs(x));
  return x < 0.0F ? tail : 1.0F - tail;
}

inline float verf(float x) {
  const float z = x * x;
  float q = 7.853861e-05F;
  q = q * z + -0.000801019353F;
  q = q * z + 0.00518832768F;
  q = q * z + -0.0268538119F;
  q = q * z + 0.112835851F;
  q = q * z + -0.376126258F;
  q = q * z + 1.12837917F;
  const float size = std::fabs(x);
  const float far = std::copysign(1.0F - 2.0F * vnormal_tail(1.41421356F * size), x);
  return size < 1.0F ? x * q : far;
}

/// The largest factor * x[i], minus infinity of none; NaN is passed over. Written with sixteen lanes because compilers do not turn a search
/// for the largest float into vector code while NaN exist.
inline float largest_f32(const float* x, std::int64_t count, float factor = 1) {
  using Lanes = float __attribute__((vector_size(64)));
  Lanes most = Lanes{} - std::numeric_limits<float>::infinity();
  std::int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    Lanes next;
    std::memcpy(&next, x + i, sizeof(next));
    next *= factor;
    most = next > most ? next : most;
  }
  std::array<float, 16> lanes;
  std::memcpy(lanes.data(), &most, sizeof(most));
  float result = -std::numeric_limits<float>::infinity();
  for (const float lane : lanes) result = lane > result ? lane : result;
  for (; i < count; ++i) result = factor * x[i] > result ? factor * x[i] : result;
  return result;
}

}  // namespace yard::ops
