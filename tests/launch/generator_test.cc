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

TEST(Sample, NeverDrawsWhatIsExcluded) {
  std::vector<float> logits = some_logits(40, 5);
  std::vector<std::uint8_t> drawable(40, 1);
  for (const std::size_t id : {0, 7, 39}) {
    drawable[id] = 0;
    logits[id] = id == 7 ? 1e30F : 20;  // far likelier than all others
  }
  std::vector<float> without = logits;
  for (const std::size_t id : {0, 7, 39}) without[id] = -1e30F;
  for (const double temperature : {0.0, 1e-6, 1.0, 1e6}) {
    for (const double top_p : {0.2, 1.0}) {
      for (std::uint64_t position = 0; position < 100; ++position) {
        const std::int32_t id = sample(logits, Sampling{temperature, top_p, 3}, 1, position, drawable);
        EXPECT_EQ(drawable[static_cast<std::size_t>(id)], 1) << id;
        EXPECT_EQ(id, sample(without, Sampling{temperature, top_p, 3}, 1, position)) << "the others keep their shares";
      }
    }
  }
  const std::vector<std::uint8_t> last = {0, 0, 1};
  for (const double temperature : {0.0, 1.0}) EXPECT_EQ(sample(std::vector<float>{9, 8, -50}, Sampling{temperature, 1, 1}, 0, 0, last), 2);
}

TEST(Sample, IdsWithoutTextAreExcluded) {
  const auto tokenizer = byte_tokenizer();
  const std::vector<std::uint8_t> drawable = drawable_ids(*tokenizer, std::vector<std::int32_t>{256, 300, 9999, -1}, 512);
  ASSERT_EQ(drawable.size(), 512U);
  for (std::size_t id = 0; id < 512; ++id) EXPECT_EQ(drawable[id], id <= 256 || id == 300 ? 1 : 0) << id;
  EXPECT_EQ(drawable_ids(*tokenizer, {}, 257)[256], 0) << "an end of text that ends nothing has no text";
  EXPECT_EQ(drawable_ids(*tokenizer, {}, 10), std::vector<std::uint8_t>(10, 1));
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
