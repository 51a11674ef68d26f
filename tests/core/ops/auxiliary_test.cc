#include "core/ops/auxiliary.h"

#include <cmath>

#include "core/ops/routing.h"
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

Values logits_of(const Tensor& p) {
  Values z = to_f64(p);
  for (double& value : z) value = std::log(value);
  return z;
}

Tensor numbers(Shape shape, const std::function<Index(Index)>& value) {
  Tensor result(cpu(), shape, DType::i64);
  for (Index i = 0; i < result.elements(); ++i) result.data<std::int64_t>()[i] = value(i);
  return result;
}

TEST(Auxiliary, AuxiliaryGradientsAreTheDerivatives) {
  const Tensor p = probabilities(12, 4, 1);
  const Values shift = to_f64(random_tensor({12}, 5));
  Values z = logits_of(p);
  for (std::size_t i = 0; i < z.size(); ++i) z[i] += shift[i / 4];  // log-sum-exp is the shift
  const Tensor lse = random_tensor({12}, 5);
  const Tensor ids = random_integers({12}, 1, 0, 9);
  ids.data<std::int32_t>()[5] = -1;
  for (const Index groups : {0, 1, 3, 12}) {
    const Tensor c = groups == 0 ? Tensor() : random_tensor({groups, 4}, 7);
    const auto loss = [&](const Values& at) {
      double sum = 0;
      for (std::size_t n = 0; n < 12; ++n) {
        if (n == 5) continue;
        double total = 0;
        for (std::size_t e = 0; e < 4; ++e) total += std::exp(at[n * 4 + e]);
        sum += 0.3 * std::log(total) * std::log(total);
        for (std::size_t e = 0; e < 4 && groups > 0; ++e) {
          sum += to_f64(c)[n / (12 / static_cast<std::size_t>(groups)) * 4 + e] * std::exp(at[n * 4 + e]) / total;
        }
      }
      return sum;
    };
    const Tensor before = random_tensor({12, 4}, 9);
    const Tensor dlogits = random_tensor({12, 4}, 9);
    ops::add_auxiliary_gradient(cpu(), p, lse, ids, c, 0.3F, dlogits);
    Values expected = numeric_gradient(loss, z);
    const Values base = to_f64(before);
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += base[i];
    expect_close(dlogits, expected, 1e-5, "groups " + std::to_string(groups));
  }
}

/// The balance loss of some rows, from counts: E / (K T^2) sum_e n_e sum_t p_te.
double balance64(const Values& p, const Values& ids, std::size_t first, std::size_t rows, const double* counts, std::size_t experts,
                 double k, double tokens) {
  double loss = 0;
  for (std::size_t e = 0; e < experts; ++e) {
    double sum = 0;
    for (std::size_t n = first; n < first + rows; ++n) sum += ids[n] < 0 ? 0 : p[n * experts + e];
    loss += counts[e] * sum;
  }
  return loss * static_cast<double>(experts) / (k * tokens * tokens);
}

TEST(Auxiliary, LossesAreTheLoopsAndAdd) {
  for (const Index experts : {4, 600}) {  // 600: more than a thread sums at once, and no multiple of that
    constexpr Index kRows = 18;
    constexpr Index kLength = 6;
    const auto count = static_cast<std::size_t>(experts);
    const Tensor p = probabilities(kRows, experts, 1);
    const Tensor lse = random_tensor({kRows}, 2);
    const Tensor ids = random_integers({kRows}, 3, 0, 9);
    for (const int padding : {4, 12, 13, 14, 15, 16, 17}) ids.data<std::int32_t>()[padding] = -1;  // the last sequence is all padding
    const Tensor by_sequence = numbers({3, experts}, [](Index i) { return i % 7; });
    const Tensor total = numbers({experts}, [](Index i) { return 3 + i % 5; });
    const Values tokens = {5, 6, 0};
    double sequence_loss = 0;
    for (std::size_t s = 0; s < 2; ++s)
      sequence_loss += balance64(to_f64(p), to_f64(ids), 6 * s, 6, to_f64(by_sequence).data() + s * count, count, 2, tokens[s]);
    double squares = 0;
    for (std::size_t n = 0; n < kRows; ++n) squares += to_f64(ids)[n] < 0 ? 0 : std::pow(to_f64(lse)[n], 2);
    for (const int threads : {1, 2, 3}) {
      with_threads(threads, [&] {
        const Tensor sums = ops::sum_by_sequence(cpu(), p, ids, kLength);
        for (std::size_t s = 0; s < 3; ++s) EXPECT_EQ(to_f64(sums)[s * (1 + count)], tokens[s]);
        const Tensor into = tensor_of({3}, Values{0.25, 0.5, 1});
        ops::add_balance_loss(cpu(), sums, total, 2, 36, into.row_range(0, 1));  // of two ranks
        ops::add_balance_loss(cpu(), sums, by_sequence, 2, 6, into.row_range(1, 1));
        ops::add_z_loss(cpu(), lse, ids, kLength, 36, into.row_range(2, 1));
        const double batch = balance64(to_f64(p), to_f64(ids), 0, kRows, to_f64(total).data(), count, 2, 36);
        expect_close(into, Values{0.25 + batch, 0.5 + sequence_loss / 6, 1 + squares / 36}, 1e-12, "losses");
        return 0;
      });
    }
  }
}

TEST(Auxiliary, BalanceIsOneAtPerfectBalanceForEveryK) {
  for (Index k = 1; k <= 4; ++k) {
    const Index rows = 12;
    Tensor p(cpu(), {rows, 4});
    Tensor choice(cpu(), {rows, k}, DType::i32);
    for (Index n = 0; n < rows; ++n) {  // each expert in turn, also in probability: an even load on average, not on a token
      for (Index e = 0; e < 4; ++e) p.data<float>()[n * 4 + e] = static_cast<float>((e + n) % 4 + 1) / 10;
      for (Index j = 0; j < k; ++j) choice.data<std::int32_t>()[n * k + j] = static_cast<std::int32_t>((n + j) % 4);
    }
    const Tensor counts = ops::count_by_sequence(cpu(), choice, 4, 4);
    const Tensor sums = ops::sum_by_sequence(cpu(), p, Tensor::zeros(cpu(), {rows}, DType::i32), 4);
    const Tensor into = Tensor::zeros(cpu(), {2}, DType::f64);
    ops::add_balance_loss(cpu(), sums, ops::sum_over_layers(cpu(), counts).reshaped({4}), k, 12, into.row_range(0, 1));
    ops::add_balance_loss(cpu(), sums, counts, k, 3, into.row_range(1, 1));
    for (const double loss : to_f64(into)) EXPECT_NEAR(loss, 1, 1e-6) << "k " << k;
  }
}

TEST(Auxiliary, ReportsAndCoefficientsTakeEveryType) {
  const Tensor into = tensor_of({3}, Values{1, 2, 3});
  ops::add_to_report(cpu(), tensor_of({3}, std::vector<float>{0.5F, 0, -1}), into);
  ops::add_to_report(cpu(), numbers({3}, [](Index i) { return (Index{1} << 40) + i; }), into);
  const double large = 0x1p40;
  EXPECT_EQ(to_f64(into), (Values{large + 1.5, large + 3, large + 4}));
  expect_close(ops::scaled_counts(cpu(), numbers({1, 4}, [](Index i) { return i; }), 0.25), Values{0, 0.25, 0.5, 0.75}, 1e-7,
               "scaled counts");
}

TEST(Auxiliary, WrongShapesAreRejected) {
  const Tensor p = probabilities(6, 4, 1);
  const Tensor ids = Tensor::zeros(cpu(), {6}, DType::i32);
  const Tensor into = Tensor::zeros(cpu(), {1}, DType::f64);
  EXPECT_THROW(ops::add_auxiliary_gradient(cpu(), p, p, p, random_tensor({2, 3}, 1), 0, random_tensor({6, 4}, 1)), Error);
  EXPECT_THROW(ops::sum_by_sequence(cpu(), p, ids, 4), Error);
  const Tensor sums = ops::sum_by_sequence(cpu(), p, ids, 3);
  EXPECT_THROW(ops::add_balance_loss(cpu(), sums, Tensor::zeros(cpu(), {5}, DType::i64), 1, 1, into), Error);
  EXPECT_THROW(ops::add_balance_loss(cpu(), sums, Tensor::zeros(cpu(), {3, 4}, DType::i64), 1, 1, into), Error);
  EXPECT_THROW(ops::add_z_loss(cpu(), random_tensor({6}, 1), ids, 4, 1, into), Error);
  EXPECT_THROW(ops::add_to_report(cpu(), ids, Tensor::zeros(cpu(), {6}, DType::f64)), Error);
}

}  // namespace
}  // namespace yard
