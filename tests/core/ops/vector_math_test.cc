#include "core/ops/vector_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace yard::ops {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The largest relative error over many values of [low, high].
template <class F, class G>
double worst(F approximate, G exact, float low, float high) {
  double result = 0;
  constexpr int kSteps = 200000;
  for (int i = 0; i <= kSteps; ++i) {
    const float x = low + (high - low) * static_cast<float>(i) / kSteps;
    const double wanted = exact(static_cast<double>(x));
    result = std::max(result, std::abs(approximate(x) - wanted) / std::max(std::abs(wanted), 1e-37));
  }
  return result;
}

TEST(VectorMath, ExponentialIsAccurate) {
  const auto exact = [](double x) { return std::exp(x); };
  EXPECT_LT(worst(exp_f32, exact, -87.2F, 88.2F), 1.5e-7);
  EXPECT_LT(worst(exp_f32, exact, -1.0F, 1.0F), 1.5e-7);
  EXPECT_EQ(exp_f32(0), 1);
  EXPECT_EQ(exp_f32(-100), 0);
  EXPECT_EQ(exp_f32(-kInfinity), 0);
  EXPECT_EQ(exp_f32(100), kInfinity);
  EXPECT_EQ(exp_f32(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(exp_f32(std::nanf(""))));
}

TEST(VectorMath, TangentIsAccurate) {
  const auto exact = [](double x) { return std::tanh(x); };
  EXPECT_LT(worst(tanh_f32, exact, -12.0F, 12.0F), 3e-7);
  EXPECT_LT(worst(tanh_f32, exact, -1e-3F, 1e-3F), 3e-7);
  EXPECT_EQ(tanh_f32(0), 0);
  EXPECT_EQ(tanh_f32(60), 1);
  EXPECT_EQ(tanh_f32(-kInfinity), -1);
  EXPECT_TRUE(std::isnan(tanh_f32(std::nanf(""))));
}

TEST(VectorMath, SigmoidIsAccurate) {
  EXPECT_LT(worst(
                sigmoid_f32, [](double x) { return 1 / (1 + std::exp(-x)); }, -80.0F, 80.0F),
            3e-7);
  EXPECT_EQ(sigmoid_f32(-kInfinity), 0);
  EXPECT_EQ(sigmoid_f32(kInfinity), 1);
}

TEST(VectorMath, LargestIsFound) {
  std::vector<float> x(50);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = -1 - static_cast<float>(i % 7);
  for (std::size_t at = 0; at < x.size(); ++at) {
    x[at] = -0.5F;
    EXPECT_EQ(largest_f32(x.data(), 50), -0.5F) << at;
    EXPECT_EQ(largest_f32(x.data(), static_cast<std::int64_t>(at)), at == 0 ? -kInfinity : -1.0F) << at;
    EXPECT_EQ(largest_f32(x.data() + at, 1, -2), 1.0F);
    x[at] = -1 - static_cast<float>(at % 7);
  }
  EXPECT_EQ(largest_f32(x.data(), 50, -2), 14.0F);
}

}  // namespace
}  // namespace yard::ops
