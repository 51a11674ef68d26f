#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

namespace yard::ops {

/// Elementary functions written so that a loop over them becomes vector code: no branches, no calls, no tables.

/// e^x to 1.5e-7 relative; 0 below -87.3, infinity above 88.3, NaN of NaN.
/// Cody and Waite's reduction by multiples of ln 2, then a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2].
inline float exp_f32(float x) {
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
  const float shifted = x * 1.44269504F + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;  // the coefficients of Cephes' expf (Moshier)
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  // Outside of the range the exponent is nonsense, and not used.
  const float power = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(kRound) + 127U) << 23);
  return x < -87.3F ? 0.0F : (x > 88.3F ? std::numeric_limits<float>::infinity() : p * power);
}

/// The hyperbolic tangent to 2e-7 relative: a polynomial near zero, where 1 - 2/(e^2x + 1) would cancel.
inline float tanh_f32(float x) {
  const float size = x < 0 ? -x : x;
  const float square = x * x;
  float p = -5.70498872745e-3F;  // the coefficients of Cephes' tanhf (Moshier)
  p = p * square + 2.06390887954e-2F;
  p = p * square - 5.37397155531e-2F;
  p = p * square + 1.33314422036e-1F;
  p = p * square - 3.33332819422e-1F;
  const float near = p * square * x + x;
  const float far = 1.0F - 2.0F / (exp_f32(2.0F * size) + 1.0F);
  return size < 0.625F ? near : (x < 0 ? -far : far);
}

/// 1 / (1 + e^-x).
inline float sigmoid_f32(float x) { return 1.0F / (1.0F + exp_f32(-x)); }

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
