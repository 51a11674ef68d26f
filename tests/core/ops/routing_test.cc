#include "core/ops/routing.h"

#include <algorithm>
#include <cmath>

#include "tests/core/ops/ops_support.h"

namespace yard {
namespace {

using namespace test;
using Values = std::vector<double>;

/// Rows of probabilities.
Tensor probabilities(Index rows, Index experts, std::uint64_t seed) {
  Tensor p = random_tensor({rows, experts}, seed);
  for (Index n = 0; n < rows; ++n) {
    float total = 0;
    for (Index e = 0; e < experts; ++e) total += p.data<float>()[n * experts + e] = std::exp(p.data<float>()[n * experts + e]);
    for (Index e = 0; e < experts; ++e) p.data<float>()[n * experts + e] /= total;
  }
  return p;
}

/// k different experts a row.
Tensor choices(Index rows, Index experts, Index k, int seed) {
  Tensor choice(cpu(), {rows, k}, DType::i32);
  for (Index n = 0; n < rows; ++n) {
    for (Index j = 0; j < k; ++j) choice.data<std::int32_t>()[n * k + j] = static_cast<std::int32_t>((n * n + seed * n + j) % experts);
  }
  return choice;
}

Values logits_of(const Tensor& p) {
  Values z = to_f64(p);
  for (double& value : z) value = std::log(value);
  return z;
}

/// Weights of fixed choices as a function of the logits.
Values weights64(const Values& z, std::size_t experts, const Values& choice, std::size_t k, bool normalize, double scale) {
  Values w;
  for (std::size_t n = 0; n < z.size() / experts; ++n) {
    double all = 0;
    double chosen = 0;
    for (std::size_t e = 0; e < experts; ++e) all += std::exp(z[n * experts + e]);
    for (std::size_t j = 0; j < k; ++j) chosen += std::exp(z[n * experts + static_cast<std::size_t>(choice[n * k + j])]);
    for (std::size_t j = 0; j < k; ++j) {
      w.push_back(scale * std::exp(z[n * experts + static_cast<std::size_t>(choice[n * k + j])]) / (normalize ? chosen : all));
    }
  }
  return w;
}

TEST(Routing, WeightsAndTheirGradientAreTheLoops) {
  for (const bool normalize : {true, false}) {
    for (const Index k : {1, 2, 5}) {
      const Tensor p = probabilities(17, 5, 1);
      const Tensor choice = choices(17, 5, k, 3);
      const Tensor dweight = random_tensor({17, k}, 2);
      const Values z = logits_of(p);
      const auto weights = [&](const Values& at) { return weights64(at, 5, to_f64(choice), static_cast<std::size_t>(k), normalize, 1.5); };
      const Tensor w = ops::choice_weights(cpu(), p, choice, normalize, 1.5F);
      expect_close(w, weights(z), 1e-6, "weights");
      const auto loss = [&](const Values& at) { return inner(to_f64(dweight), weights(at)); };
      const Tensor dlogits = ops::choice_weights_backward(cpu(), dweight, p, choice, w, normalize, 1.5F);
      Values expected = numeric_gradient(loss, z);
      if (normalize && k == 1) {
        for (const double value : to_f64(dlogits)) EXPECT_NEAR(value, 0, 1e-6) << "a constant weight has no gradient";
      } else {
        expect_close(dlogits, expected, 1e-5, "dlogits");
      }
    }
  }
}

/// Keeps, one expert at a time, the first or the heaviest of each group.
struct Dropped64 {
  Values choice, dropped = Values(4, 0.0), seen = Values(4, 0.0);
};
Dropped64 drop64(const Tensor& choice, const Tensor& weight, int experts, Index group, Index length, std::size_t capacity, bool by_weight) {
  Dropped64 result;
  result.choice = to_f64(choice);
  const Values w = to_f64(weight);
  const auto k = static_cast<std::size_t>(choice.cols());
  const auto slots_of_group = static_cast<std::size_t>(group) * k;
  const auto quarter = [&](std::size_t slot) { return slot / k % static_cast<std::size_t>(length) * 4 / static_cast<std::size_t>(length); };
  for (std::size_t slot = 0; slot < result.choice.size(); ++slot) result.seen[quarter(slot)] += result.choice[slot] >= 0 ? 1 : 0;
  for (std::size_t first = 0; first < result.choice.size(); first += slots_of_group) {
    for (int e = 0; e < experts; ++e) {
      std::vector<std::pair<double, std::size_t>> ranked;  // the smaller goes first
      for (std::size_t slot = first; slot < first + slots_of_group; ++slot) {
        if (result.choice[slot] == e) ranked.emplace_back(by_weight ? -w[slot] : 0.0, slot);
      }
      std::sort(ranked.begin(), ranked.end());
      for (std::size_t i = capacity; i < ranked.size(); ++i) {
        result.choice[ranked[i].second] = -1;
        result.dropped[quarter(ranked[i].second)] += 1;
      }
    }
  }
  return result;
}

TEST(Routing, CapacityDropsTheLatestOrTheLightest) {
  for (const auto policy : {ops::DropPolicy::position, ops::DropPolicy::weight}) {
    for (const Index group : {8, 16, 32}) {
      for (const Index capacity : {1, 3, 5, 100}) {
        const Tensor choice = choices(32, 4, 2, 1);
        choice.data<std::int32_t>()[7] = -1;  // padding
        const Tensor weight = random_tensor({32, 2}, 4);
        weight.data<float>()[2] = weight.data<float>()[10];  // a tie
        const auto expected = drop64(choice, weight, 4, group, 8, static_cast<std::size_t>(capacity), policy == ops::DropPolicy::weight);
        const Tensor dropped = Tensor::zeros(cpu(), {4}, DType::i64);
        const Tensor seen = Tensor::zeros(cpu(), {4}, DType::i64);
        ops::drop_over_capacity(cpu(), choice, weight, 4, group, 8, capacity, policy, dropped, seen);
        EXPECT_EQ(to_f64(choice), expected.choice) << "group " << group << ", capacity " << capacity;
        EXPECT_EQ(to_f64(dropped), expected.dropped);
        EXPECT_EQ(to_f64(seen), expected.seen);
      }
    }
  }
}

TEST(Routing, EqualWeightsLoseTheLatest) {
  const Tensor choice = tensor_of({4, 1}, std::vector<int>{0, 0, 0, 0});
  const Tensor weight = tensor_of({4, 1}, std::vector<float>{0.5F, 0.7F, 0.5F, 0.5F});
  const Tensor counts = Tensor::zeros(cpu(), {8}, DType::i64);
  ops::drop_over_capacity(cpu(), choice, weight, 1, 4, 4, 2, ops::DropPolicy::weight, counts.row_range(0, 4), counts.row_range(4, 4));
  EXPECT_EQ(to_f64(choice), (Values{0, 0, -1, -1}));
}

TEST(Routing, CountsAreTheLoops) {
  const Tensor ids = random_integers({18}, 3, 0, 9);
  const Tensor choice = choices(18, 4, 2, 1);
  for (const int padding : {4, 12, 13, 14, 15, 16, 17}) ids.data<std::int32_t>()[padding] = -1;  // the last sequence is all padding
  ops::mask_padding(cpu(), ids, choice);
  const Tensor counts = ops::count_by_sequence(cpu(), choice, 6, 4);
  Values expected(12, 0.0);
  for (std::size_t n = 0; n < 18; ++n) {
    for (std::size_t j = 0; j < 2; ++j) {
      const double expert = to_f64(choice)[2 * n + j];
      EXPECT_EQ(expert < 0, to_f64(ids)[n] < 0);
      if (expert >= 0) expected[n / 6 * 4 + static_cast<std::size_t>(expert)] += 1;
    }
  }
  EXPECT_EQ(to_f64(counts), expected);
  const Tensor totals = ops::sum_over_layers(cpu(), counts);
  for (std::size_t e = 0; e < 4; ++e) EXPECT_EQ(to_f64(totals)[e], expected[e] + expected[4 + e] + expected[8 + e]);
}

TEST(Routing, UnusedChoicesWeighNothing) {
  const Tensor p = probabilities(2, 4, 1);
  const Tensor choice = tensor_of({2, 2}, std::vector<int>{2, -1, -1, -1});
  const Values w = to_f64(ops::choice_weights(cpu(), p, choice, true, 1.5F));
  EXPECT_EQ(w, (Values{1.5, 0, 0, 0})) << "also where nothing is chosen at all";
}

TEST(Routing, JitterIsKeyedByTheRowAndStaysInItsRange) {
  const Tensor ones = Tensor::of<float>(cpu(), {64, 32}, std::vector<float>(64 * 32, 1.0F));
  const Tensor key(cpu(), {64}, DType::i64);
  ops::count_up(cpu(), key, 1000);
  EXPECT_EQ(key.data<std::int64_t>()[63], 1063);
  const Tensor noise = ops::jitter(cpu(), ones, 0.1F, 7, key);
  double mean = 0;
  double least = 2;
  double most = 0;
  for (const double value : to_f64(noise)) {
    mean += value / 2048;
    least = std::min(least, value);
    most = std::max(most, value);
  }
  EXPECT_NEAR(mean, 1, 0.01);
  EXPECT_GE(least, 0.9F - 1e-6F);
  EXPECT_LE(most, 1.1F + 1e-6F);
  EXPECT_LT(least, 0.905);
  EXPECT_GT(most, 1.095);
  const Tensor part = ops::jitter(cpu(), ones.row_range(10, 5), 0.1F, 7, key.row_range(10, 5));
  expect_same_bits(part, noise.row_range(10, 5), "the same rows elsewhere");
  EXPECT_GT(relative_error(to_f64(ops::jitter(cpu(), ones, 0.1F, 8, key)), to_f64(noise)), 0.01) << "another key draws otherwise";
}

TEST(Routing, SmallMovesAreExact) {
  const Tensor order = tensor_of({3}, std::vector<int>{4, 0, 2});
  const Tensor inverse(cpu(), {5}, DType::i32);
  ops::invert(cpu(), order, inverse);
  EXPECT_EQ(to_f64(inverse), (Values{1, -1, 2, -1, 0}));
  const Tensor slots(cpu(), {6}, DType::i32);
  ops::count_slots(cpu(), slots, 3);
  EXPECT_EQ(to_f64(slots), (Values{0, 0, 0, 1, 1, 1}));
  const Tensor sum = Tensor::of<std::int64_t>(cpu(), {2}, std::vector<std::int64_t>{1, 2});
  ops::add_counts(cpu(), sum, sum);
  EXPECT_EQ(to_f64(sum), (Values{2, 4}));
}

TEST(Routing, SigmoidAndItsGradient) {
  const Tensor x = random_tensor({100}, 1, 3);
  const Tensor y = ops::sigmoid(cpu(), x);
  const Tensor dy = random_tensor({100}, 2);
  Values expected;
  for (const double value : to_f64(x)) expected.push_back(1 / (1 + std::exp(-value)));
  expect_close(y, expected, 1e-6, "y");
  for (std::size_t i = 0; i < 100; ++i) expected[i] = to_f64(dy)[i] * expected[i] * (1 - expected[i]);
  expect_close(ops::sigmoid_backward(cpu(), dy, y), expected, 1e-5, "dx");
}

TEST(Routing, ForcedChoicesAreDifferentExpertsForEveryToken) {
  const Tensor key(cpu(), {240}, DType::i64);
  ops::count_up(cpu(), key, 17);
  for (const Index k : {1, 2, 3, 6}) {
    for (const float skew : {0.0F, 0.7F}) {
      const Tensor choice = ops::forced_choice(cpu(), key, 6, k, skew, 5);
      Values counts(6, 0.0);
      for (Index n = 0; n < 240; ++n) {
        std::vector<int> of_token;
        for (Index j = 0; j < k; ++j) of_token.push_back(choice.data<std::int32_t>()[n * k + j]);
        for (const int expert : of_token) counts.at(static_cast<std::size_t>(expert)) += 1;
        std::sort(of_token.begin(), of_token.end());
        EXPECT_EQ(std::unique(of_token.begin(), of_token.end()), of_token.end()) << "an expert twice";
      }
      if (skew == 0) {
        EXPECT_EQ(counts, Values(6, 40.0 * static_cast<double>(k))) << k;
      } else {
        EXPECT_GT(counts[0], 0.6 * 240) << k;
      }
    }
  }
  EXPECT_THROW(ops::forced_choice(cpu(), key, 2, 3, 0, 5), Error);
}

TEST(Routing, WrongShapesAreRefused) {
  const Tensor p = probabilities(6, 4, 1);
  EXPECT_THROW(ops::choice_weights(cpu(), p, choices(5, 4, 2, 1), true, 1), Error);
  EXPECT_THROW(ops::count_by_sequence(cpu(), choices(6, 4, 2, 1), 4, 4), Error);
  EXPECT_THROW(ops::mask_padding(cpu(), random_integers({5}, 1, 0, 3), choices(6, 4, 2, 1)), Error);
}

}  // namespace
}  // namespace yard
