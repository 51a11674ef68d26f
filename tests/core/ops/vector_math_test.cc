#include "core/ops/vector_math.h"

#include <limits>
#include <vector>

#include "tests/core/ops/ops_support.h"

namespace yard {
namespace {

/// The largest relative error of f over a fine grid of [low, high] that holds both ends.
template <class F, class Exact>
double worst_error(double low, double high, F&& f, Exact&& exact) {
  constexpr int kPoints = 200000;
  double worst = 0;
  for (int i = 0; i <= kPoints; ++i) {
    const auto x = static_cast<float>(low + (high - low) * i / kPoints);
    const double expected = exact(static_cast<double>(x));
    const double error = std::abs(static_cast<double>(f(x)) - expected);
    if (error > 0) worst = std::max(worst, error / std::abs(expected));
  }
  return worst;
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(VectorMath, Exponential) {
  EXPECT_LE(worst_error(-87, 88.7, ops::vexp, [](double x) { return std::exp(x); }), 1.5e-7);
  EXPECT_LE(worst_error(-1e-3, 1e-3, ops::vexp, [](double x) { return std::exp(x); }), 1e-7);
  EXPECT_EQ(ops::vexp(0), 1);
  EXPECT_EQ(ops::vexp(-kInfinity), 0);
  EXPECT_EQ(ops::vexp(kInfinity), kInfinity);
  EXPECT_EQ(ops::vexp(89), kInfinity);
  EXPECT_EQ(ops::vexp(-110), 0);
  EXPECT_NEAR(ops::vexp(-100), std::exp(-100.0), 1.5e-45) << "below the normal numbers";
  EXPECT_TRUE(std::isnan(ops::vexp(std::nanf(""))));
}

TEST(VectorMath, Sigmoid) {
  EXPECT_LE(worst_error(-87, 87, ops::vsigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }), 3e-7);
  EXPECT_EQ(ops::vsigmoid(-kInfinity), 0);
  EXPECT_EQ(ops::vsigmoid(kInfinity), 1);
  EXPECT_TRUE(std::isnan(ops::vsigmoid(std::nanf(""))));
}

TEST(VectorMath, Tanh) {
  EXPECT_LE(worst_error(-12, 12, ops::vtanh, [](double x) { return std::tanh(x); }), 3e-7);
  EXPECT_LE(worst_error(-1e-4, 1e-4, ops::vtanh, [](double x) { return std::tanh(x); }), 1.2e-7);
  EXPECT_EQ(ops::vtanh(kInfinity), 1);
  EXPECT_EQ(ops::vtanh(-kInfinity), -1);
  EXPECT_TRUE(std::isnan(ops::vtanh(std::nanf(""))));
}

TEST(VectorMath, ErrorFunctionAndNormalDistribution) {
  EXPECT_LE(worst_error(-6, 6, ops::verf, [](double x) { return std::erf(x); }), 3e-7);
  EXPECT_LE(worst_error(-12.5, 12.5, ops::vnormal_cdf, [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }), 5e-7);
  EXPECT_EQ(ops::verf(kInfinity), 1);
  EXPECT_EQ(ops::verf(-kInfinity), -1);
  EXPECT_NEAR(ops::vnormal_cdf(-kInfinity), 0, 1e-42);
  EXPECT_EQ(ops::vnormal_cdf(kInfinity), 1);
  EXPECT_TRUE(std::isnan(ops::verf(std::nanf(""))));
  EXPECT_TRUE(std::isnan(ops::vnormal_cdf(std::nanf(""))));
}

TEST(VectorMath, LargestIsFound) {
  std::vector<float> x(50);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = -1 - static_cast<float>(i % 7);
  for (std::size_t at = 0; at < x.size(); ++at) {
    x[at] = -0.5F;
    EXPECT_EQ(ops::largest_f32(x.data(), 50), -0.5F) << at;
    EXPECT_EQ(ops::largest_f32(x.data(), static_cast<std::int64_t>(at)), at == 0 ? -kInfinity : -1.0F) << at;
    EXPECT_EQ(ops::largest_f32(x.data() + at, 1, -2), 1.0F);
    x[at] = -1 - static_cast<float>(at % 7);
  }
  EXPECT_EQ(ops::largest_f32(x.data(), 50, -2), 14.0F);
}

}  // namespace
}  // namespace yard
