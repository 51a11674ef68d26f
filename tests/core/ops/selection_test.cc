#include "core/ops/selection.h"

#include <cmath>
#include <limits>

#include "core/ops/routing.h"
#include "tests/core/ops/ops_support.h"

namespace yard {
namespace {

using namespace test;
using Values = std::vector<double>;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor scores_of(Index rows, Index experts, std::uint64_t seed) { return ops::sigmoid(cpu(), random_tensor({rows, experts}, seed, 2)); }

/// One row: groups sorted by the sum of their two largest, the first of equal ones in front.
Values limited64(const Values& scores, std::size_t groups, std::size_t kept, double& margin) {
  const std::size_t each = scores.size() / groups;
  std::vector<std::pair<double, std::size_t>> ranked;
  for (std::size_t g = 0; g < groups; ++g) {
    Values own(scores.begin() + static_cast<std::ptrdiff_t>(g * each), scores.begin() + static_cast<std::ptrdiff_t>((g + 1) * each));
    std::sort(own.begin(), own.end(), std::greater<>());
    ranked.emplace_back(-(own[0] + (each > 1 ? own[1] : 0)), g);
  }
  std::sort(ranked.begin(), ranked.end());
  margin = kept == groups ? kInfinity : ranked[kept].first - ranked[kept - 1].first;
  Values result(scores.size(), -kInfinity);
  for (std::size_t i = 0; i < kept; ++i) {
    for (std::size_t e = ranked[i].second * each; e < (ranked[i].second + 1) * each; ++e) result[e] = scores[e];
  }
  return result;
}

TEST(Selection, GroupsAreLimitedAsTheLoopSays) {
  for (const Index experts : {4, 12}) {
    for (const Index groups : {1, 2, 4}) {
      for (Index kept = 1; kept <= groups; ++kept) {
        for (const bool biased : {false, true}) {
          // Eighths, whose sums are exact: ties are common, and both sides see the same ones.
          Tensor scores(cpu(), {30, experts});
          Tensor bias(cpu(), {experts});
          const auto eighth = [](const Tensor& whole, Index i) { return static_cast<float>(whole.data<std::int32_t>()[i]) / 8; };
          for (Index i = 0; i < scores.elements(); ++i) scores.data<float>()[i] = eighth(random_integers(scores.shape(), 3, 0, 9), i);
          for (Index e = 0; e < experts; ++e) bias.data<float>()[e] = eighth(random_integers({experts}, 4, -16, 4), e);
          const auto limited = ops::limit_groups(cpu(), scores, biased ? bias : Tensor(), groups, kept);
          for (std::size_t n = 0; n < 30; ++n) {
            Values row;
            for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) {
              row.push_back(to_f64(scores)[n * static_cast<std::size_t>(experts) + e] + (biased ? to_f64(bias)[e] : 0));
            }
            double margin = 0;
            const Values expected = limited64(row, static_cast<std::size_t>(groups), static_cast<std::size_t>(kept), margin);
            EXPECT_EQ(to_f64(limited.scores.row_range(static_cast<Index>(n), 1)), expected) << groups << " groups, " << kept << " kept";
            EXPECT_EQ(to_f64(limited.margin)[n], margin);
          }
        }
      }
    }
  }
}

TEST(Selection, MinimaAreTaken) {
  const Tensor into = tensor_of({3}, std::vector<float>{1, 5, -2});
  ops::lower_to(cpu(), tensor_of({3}, std::vector<float>{2, 3, std::numeric_limits<float>::infinity()}), into);
  EXPECT_EQ(to_f64(into), (Values{1, 3, -2}));
}

TEST(Selection, GradientsOfChosenScoresAreTheDerivatives) {
  for (const bool normalize : {true, false}) {
    for (const Index k : {1, 2, 5}) {
      const Tensor scores = scores_of(17, 5, 1);
      Tensor choice(cpu(), {17, k}, DType::i32);
      for (Index n = 0; n < 17; ++n) {
        for (Index j = 0; j < k; ++j) choice.data<std::int32_t>()[n * k + j] = static_cast<std::int32_t>((n * n + j) % 5);
      }
      for (Index j = 0; j < k; ++j) choice.data<std::int32_t>()[3 * k + j] = -1;  // padding
      const Tensor dweight = random_tensor({17, k}, 2);
      const auto loss = [&](const Values& s) {
        double sum = 0;
        for (std::size_t n = 0; n < 17; ++n) {
          if (n == 3) continue;
          double chosen = 0;
          double pulled = 0;
          for (std::size_t j = 0; j < static_cast<std::size_t>(k); ++j) {
            const std::size_t slot = n * static_cast<std::size_t>(k) + j;
            const double score = s[n * 5 + static_cast<std::size_t>(to_f64(choice)[slot])];
            chosen += score;
            pulled += to_f64(dweight)[slot] * score;
          }
          sum += 1.5 * (normalize ? pulled / chosen : pulled);
        }
        return sum;
      };
      const Tensor weight = ops::choice_weights(cpu(), scores, choice, normalize, 1.5F);
      const Tensor dscores = ops::choice_scores_backward(cpu(), dweight, scores, choice, weight, normalize, 1.5F);
      if (normalize && k == 1) {
        for (const double value : to_f64(dscores)) EXPECT_NEAR(value, 0, 1e-5) << "a constant weight has no gradient";
      } else {
        expect_close(dscores, numeric_gradient(loss, to_f64(scores)), 1e-5, "dscores");
      }
    }
  }
}

TEST(Selection, NormalizedRowsAndTheirGradient) {
  const Tensor scores = scores_of(12, 4, 1);
  const auto normalized = [](const Values& s) {
    Values q = s;
    for (std::size_t n = 0; n < s.size() / 4; ++n) {
      const double sum = s[n * 4] + s[n * 4 + 1] + s[n * 4 + 2] + s[n * 4 + 3];
      for (std::size_t e = 0; e < 4; ++e) q[n * 4 + e] /= sum;
    }
    return q;
  };
  const auto rows = ops::normalize_rows(cpu(), scores);
  expect_close(rows.q, normalized(to_f64(scores)), 1e-6, "q");
  const Tensor ids = random_integers({12}, 1, 0, 9);
  ids.data<std::int32_t>()[5] = -1;
  for (const Index groups : {1, 3, 12}) {
    const Tensor c = random_tensor({groups, 4}, 7);
    const auto loss = [&](const Values& s) {
      const Values q = normalized(s);
      double sum = 0;
      for (std::size_t i = 0; i < q.size(); ++i) {
        if (i / 4 != 5) sum += to_f64(c)[i / 4 / (12 / static_cast<std::size_t>(groups)) * 4 + i % 4] * q[i];
      }
      return sum;
    };
    const Tensor dscores = random_tensor({12, 4}, 9);
    Values expected = numeric_gradient(loss, to_f64(scores));
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += to_f64(dscores)[i];
    ops::add_normalized_gradient(cpu(), rows, ids, c, dscores);
    expect_close(dscores, expected, 1e-5, "groups " + std::to_string(groups));
  }
  const auto none = ops::normalize_rows(cpu(), Tensor::zeros(cpu(), {1, 4}));
  EXPECT_EQ(to_f64(none.q), Values(4, 0.0)) << "a row of zeros stays finite";
}

TEST(Selection, TheBiasMovesAgainstTheLoad) {
  const Tensor bias = tensor_of({4}, std::vector<float>{1, 1, 1, 1});
  const Tensor counts = Tensor::of<std::int64_t>(cpu(), {4}, std::vector<std::int64_t>{3, 5, 4, 4});
  ops::step_selection_bias(cpu(), counts, 0.25F, bias);
  EXPECT_EQ(to_f64(bias), (Values{1.25, 0.75, 1, 1})) << "an expert with the mean keeps its bias";
  // A mean that is no whole number: 10 / 4.
  const Tensor uneven = Tensor::of<std::int64_t>(cpu(), {4}, std::vector<std::int64_t>{2, 3, 2, 3});
  ops::step_selection_bias(cpu(), uneven, 0.25F, bias);
  EXPECT_EQ(to_f64(bias), (Values{1.5, 0.5, 1.25, 0.75}));
}

TEST(Selection, WrongShapesAreRejected) {
  const Tensor scores = scores_of(6, 4, 1);
  EXPECT_THROW(ops::limit_groups(cpu(), scores, {}, 3, 1), Error);
  EXPECT_THROW(ops::limit_groups(cpu(), scores, {}, 2, 3), Error);
  EXPECT_THROW(ops::limit_groups(cpu(), scores, random_tensor({3}, 1), 2, 1), Error);
  EXPECT_THROW(ops::lower_to(cpu(), random_tensor({3}, 1), random_tensor({4}, 1)), Error);
  EXPECT_THROW(ops::step_selection_bias(cpu(), Tensor::zeros(cpu(), {3}, DType::i64), 1, random_tensor({4}, 1)), Error);
  const auto rows = ops::normalize_rows(cpu(), scores);
  EXPECT_THROW(ops::add_normalized_gradient(cpu(), rows, Tensor::zeros(cpu(), {6}, DType::i32), random_tensor({4, 4}, 1), scores), Error);
}

}  // namespace
}  // namespace yard
