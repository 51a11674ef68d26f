#include "core/ops/gating.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/core/ops/ops_support.h"

namespace yard {
namespace {

using namespace test;
using Values = std::vector<double>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Softmax64 {
  Values p, log_sum_exp;
};
Softmax64 softmax64(const Values& logits, std::size_t cols) {
  Softmax64 result{logits, {}};
  for (std::size_t at = 0; at < logits.size(); at += cols) {
    const double top = *std::max_element(&logits[at], &logits[at] + cols);
    double sum = 0;
    for (std::size_t c = 0; c < cols; ++c) sum += std::exp(logits[at + c] - top);
    for (std::size_t c = 0; c < cols; ++c) result.p[at + c] = std::exp(logits[at + c] - top) / sum;
    result.log_sum_exp.push_back(top + std::log(sum));
  }
  return result;
}

Values backward64(const Values& dp, const Values& p, std::size_t cols) {
  Values dlogits(p.size());
  for (std::size_t at = 0; at < p.size(); at += cols) {
    double mean = 0;
    for (std::size_t c = 0; c < cols; ++c) mean += p[at + c] * dp[at + c];
    for (std::size_t c = 0; c < cols; ++c) dlogits[at + c] = p[at + c] * (dp[at + c] - mean);
  }
  return dlogits;
}

TEST(Softmax, TheLoopsGradientIsTheDerivative) {
  const Values logits = to_f64(random_tensor({3, 5}, 1, 2));
  const Values dp = to_f64(random_tensor({3, 5}, 2));
  const auto loss = [&](const Values& v) { return inner(dp, softmax64(v, 5).p); };
  expect_close(backward64(dp, softmax64(logits, 5).p, 5), numeric_gradient(loss, logits), 1e-7, "dlogits");
  const auto log_sum = [&](const Values& v) { return softmax64(v, 5).log_sum_exp[0]; };
  const Values slope = numeric_gradient(log_sum, Values(logits.begin(), logits.begin() + 5));
  const Values p = softmax64(logits, 5).p;
  expect_close(slope, std::span(p).first(5), 1e-7, "the slope of log-sum-exp is p");
}

TEST(Softmax, ForwardAndBackwardAreTheLoops) {
  for (const Shape& shape : kShapes) {
    const auto cols = static_cast<std::size_t>(shape[1]);
    const Tensor logits = random_tensor(shape, 1, 4);
    const auto [p, log_sum_exp] = ops::softmax(cpu(), logits);
    const Softmax64 expected = softmax64(to_f64(logits), cols);
    expect_close(p, expected.p, 1e-6, text(shape, DType::f32));
    expect_close(log_sum_exp, expected.log_sum_exp, 1e-6, "log-sum-exp " + text(shape, DType::f32));
    if (cols == 1) continue;  // one expert has p = 1 and no gradient
    const Tensor dp = random_tensor(shape, 2);
    expect_close(ops::softmax_backward(cpu(), dp, p), backward64(to_f64(dp), expected.p, cols), 1e-5, "dlogits");
  }
}

TEST(Softmax, HoldsForLargeAndForbiddenLogits) {
  const Tensor logits = tensor_of({2, 3}, std::vector<float>{1e30F, -1e30F, 1e30F, -kInfinity, 2, -kInfinity});
  const auto [p, log_sum_exp] = ops::softmax(cpu(), logits);
  expect_close(p, Values{0.5, 0, 0.5, 0, 1, 0}, 1e-7, "p");
  EXPECT_EQ(log_sum_exp.values<float>()[1], 2);
  const auto wrong = ops::softmax(cpu(), tensor_of({1, 3}, std::vector<float>{0, std::nanf(""), 1}));
  EXPECT_TRUE(std::isnan(wrong.p.values<float>()[0])) << "a NaN must not pass unseen";
}

/// A full sort that knows nothing but the rule: larger first, NaN last, then the lower index.
std::vector<int> order64(std::span<const float> scores) {
  std::vector<int> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    const float x = scores[static_cast<std::size_t>(a)];
    const float y = scores[static_cast<std::size_t>(b)];
    if (std::isnan(x)) return false;
    return std::isnan(y) || x > y;
  });
  return order;
}

void expect_top_k(const Tensor& scores, Index k) {
  const auto [index, value, gap] = ops::top_k(cpu(), scores, k);
  ASSERT_EQ(index.shape(), Shape({scores.length(), k}));
  for (Index row = 0; row < scores.length(); ++row) {
    const auto s = scores.row_range(row, 1).values<float>();
    const std::vector<int> order = order64(s);
    for (Index j = 0; j < k; ++j) {
      const int expected = order[static_cast<std::size_t>(j)];
      ASSERT_EQ(index.data<std::int32_t>()[row * k + j], expected)
          << "choice " << j << " of " << k << " in row " << row << " of " << s.size();
      ASSERT_EQ(std::bit_cast<int>(value.data<float>()[row * k + j]), std::bit_cast<int>(s[static_cast<std::size_t>(expected)]));
    }
    const float got = gap.data<float>()[row];
    if (k == scores.cols()) {
      ASSERT_EQ(got, kInfinity);
    } else {
      const float kth = s[static_cast<std::size_t>(order[static_cast<std::size_t>(k - 1)])];
      const float next = s[static_cast<std::size_t>(order[static_cast<std::size_t>(k)])];
      if (std::isnan(kth) || std::isnan(next)) {
        ASSERT_TRUE(std::isnan(got));
      } else {
        ASSERT_EQ(got, kth == next ? 0 : kth - next);
      }
    }
  }
}

TEST(TopK, IsTheHeadOfAStableSort) {
  for (const Index experts : {1, 2, 8, 33, 64, 1000, 4096}) {
    for (const Index k : {Index{1}, Index{2}, Index{8}, Index{31}, Index{32}, Index{40}, experts - 1, experts}) {
      if (k < 1 || k > experts) continue;
      expect_top_k(random_tensor({experts > 100 ? 3 : 50, experts}, 1), k);
      Tensor ties = random_tensor({experts > 100 ? 3 : 50, experts}, 2);
      for (float& value : ties.values<float>()) value = std::round(value * 2);  // also makes -0 beside 0
      expect_top_k(ties, k);
      for (Index i = 0; i < ties.elements(); i += 3) ties.data<float>()[i] = i % 2 == 0 ? std::nanf("") : -std::nanf("");
      for (Index i = 1; i < ties.elements(); i += 5) ties.data<float>()[i] = i % 2 == 0 ? kInfinity : -kInfinity;
      expect_top_k(ties, k);
    }
  }
  expect_top_k(Tensor::zeros(cpu(), {0, 4}), 2);
}

TEST(TopK, GapSaysHowFarAChoiceIsFromFlipping) {
  const Tensor scores = tensor_of({3, 4}, std::vector<float>{4, 1, 3, 2, 1, 1, 1, 1, 0, -kInfinity, -kInfinity, 1});
  const Tensor gap = ops::top_k(cpu(), scores, 2).gap;
  EXPECT_EQ(gap.values<float>()[0], 1);
  EXPECT_EQ(gap.values<float>()[1], 0);
  EXPECT_EQ(gap.values<float>()[2], kInfinity);
  EXPECT_EQ(ops::top_k(cpu(), scores, 3).gap.values<float>()[2], 0) << "two infinities are a tie";
}

TEST(CountExperts, AddsWhatItCounts) {
  const Tensor expert = random_integers({100003}, 1, -1, 7);
  const Tensor counts = Tensor::zeros(cpu(), {7}, DType::i64);
  counts.data<std::int64_t>()[3] = 1000;
  Values expected(7);
  expected[3] = 1000;
  for (const double e : to_f64(expert)) {
    if (e >= 0) ++expected[static_cast<std::size_t>(e)];
  }
  ops::count_experts(cpu(), expert, counts);
  EXPECT_EQ(to_f64(counts), expected);
  ops::count_experts(cpu(), Tensor::zeros(cpu(), {0}, DType::i32), counts);
  EXPECT_EQ(to_f64(counts), expected);
  for (const int wrong : {7, -2}) EXPECT_THROW(ops::count_experts(cpu(), tensor_of({1}, std::vector<int>{wrong}), counts), Error);
}

TEST(Gating, DependsNeitherOnThreadsNorOnOtherRows) {
  const Tensor logits = random_tensor({100000, 11}, 1);
  const Tensor dp = random_tensor({100000, 11}, 2);
  const auto run = [&](int threads, Index first, Index count) {
    return with_threads(threads, [&] {
      const auto [p, log_sum_exp] = ops::softmax(cpu(), logits.row_range(first, count));
      const auto [index, value, gap] = ops::top_k(cpu(), p, 2);
      return std::vector<Tensor>{p, log_sum_exp, index, value, gap, ops::softmax_backward(cpu(), dp.row_range(first, count), p)};
    });
  };
  const auto one = run(1, 0, 100000);
  const auto two = run(2, 0, 100000);
  const auto few = run(1, 54321, 3);
  for (std::size_t i = 0; i < one.size(); ++i) {
    expect_same_bits(one[i], two[i], "threads, result " + std::to_string(i));
    expect_same_bits(one[i].row_range(54321, 3), few[i], "three rows alone, result " + std::to_string(i));
  }
}

TEST(Gating, RefusesWhatDoesNotFit) {
  const Tensor scores = Tensor::zeros(cpu(), {4, 3});
  EXPECT_THROW((void)ops::top_k(cpu(), scores, 4), Error);
  EXPECT_THROW((void)ops::top_k(cpu(), scores, 0), Error);
  EXPECT_THROW((void)ops::softmax(cpu(), Tensor::zeros(cpu(), {4, 3}, DType::bf16)), Error);
  EXPECT_THROW((void)ops::softmax(cpu(), Tensor::zeros(cpu(), {4, 0})), Error);
  EXPECT_THROW((void)ops::softmax_backward(cpu(), scores, Tensor::zeros(cpu(), {4, 2})), Error);
}

}  // namespace
}  // namespace yard
