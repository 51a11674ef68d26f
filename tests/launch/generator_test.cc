#include "launch/generator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "core/random.h"

namespace yard {
namespace {

std::vector<float> some_logits(std::size_t count, std::uint64_t seed) {
  const Random random(seed);
  std::vector<float> logits(count);
  for (std::size_t i = 0; i < count; ++i) logits[i] = 3 * random.normal(i);
  return logits;
}

/// Ids by falling logit, the first of equal ones first, and the mass of each, in f64.
std::pair<std::vector<std::int32_t>, std::vector<double>> ranked(const std::vector<float>& logits, double temperature) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)]; });
  std::vector<double> mass;
  double total = 0;
  for (const auto id : order) total += mass.emplace_back(std::exp(static_cast<double>(logits[static_cast<std::size_t>(id)]) / temperature));
  for (double& each : mass) each /= total;
  return {order, mass};
}

TEST(Sample, FollowsTheDistributionOfTheLikeliest) {
  constexpr std::uint64_t kDraws = 40000;
  for (const double top_p : {0.3, 0.9, 1.0}) {
    for (const double temperature : {0.5, 1.3}) {
      const auto logits = some_logits(50, 7);
      const auto [order, mass] = ranked(logits, temperature);
      std::vector<double> expected(order.size(), 0.0);
      double kept = 0;
      for (std::size_t i = 0; i < order.size() && (i == 0 || kept < top_p); ++i)
        kept += expected[static_cast<std::size_t>(order[i])] = mass[i];
      std::vector<double> seen(order.size(), 0.0);
      for (std::uint64_t draw = 0; draw < kDraws; ++draw)
        seen[static_cast<std::size_t>(sample(logits, {temperature, top_p, 3}, 1, draw))] += 1.0 / kDraws;
      for (std::size_t id = 0; id < seen.size(); ++id) {
        const double p = expected[id] / kept;
        EXPECT_NEAR(seen[id], p, 5 * std::sqrt(p * (1 - p) / kDraws) + 1e-9) << "top_p " << top_p << ", temperature " << temperature;
      }
    }
  }
}

TEST(Sample, AtTemperatureZeroTakesTheFirstOfTheLargest) {
  const std::vector<float> logits = {1, 4, -2, 4};
  for (std::uint64_t position = 0; position < 20; ++position) EXPECT_EQ(sample(logits, {0, 0.1, 1}, 0, position), 1);
  for (const double cold : {1e-6, 1e-42, 1e-300}) {  // however cold, equal ones are equally likely
    std::set<std::int32_t> seen;
    for (std::uint64_t position = 0; position < 40; ++position) seen.insert(sample(logits, {cold, 1, 1}, 0, position));
    EXPECT_EQ(seen, (std::set<std::int32_t>{1, 3})) << cold;
  }
  EXPECT_EQ(sample(logits, {1, 1e-9, 1}, 0, 0), 1) << "one token is always kept";
  EXPECT_EQ(sample(std::vector<float>{-3}, {1, 1, 1}, 0, 0), 0);
}

TEST(Sample, DependsOnSeedTextAndPositionAlone) {
  const auto logits = some_logits(1000, 9);
  const auto draws = [&](std::uint64_t seed, std::uint64_t number) {
    std::vector<std::int32_t> ids;
    for (std::uint64_t position = 0; position < 30; ++position) ids.push_back(sample(logits, {1, 1, seed}, number, position));
    return ids;
  };
  EXPECT_EQ(draws(1, 2), draws(1, 2));
  EXPECT_NE(draws(1, 2), draws(1, 3));
  EXPECT_NE(draws(1, 2), draws(2, 2));
}

}  // namespace
}  // namespace yard
