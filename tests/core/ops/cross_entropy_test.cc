#include "core/ops/cross_entropy.h"

#include <omp.h>

#include <cmath>
#include <numeric>

#include "tests/support/support.h"

namespace yard::ops {
namespace {

using test::cpu;
using test::expect_close;
using test::random_tensor;
using test::to_f64;
using Values = std::vector<double>;

struct Case {
  std::string name;
  Index rows, width, vocabulary;
  float logit_scale = 1, scale = 0.01F;
};

std::vector<Case> cases() {
  return {{"one row", 1, 8, 5},
          {"many rows", 1500, 8, 40},
          {"several blocks", 300, 16, 9000},
          {"scaled", 37, 24, 100, 0.57735F, 0.125F},
          {"odd", 130, 13, 257}};
}

Tensor some_targets(const Case& c) {
  const Tensor targets = test::random_integers({c.rows}, 7, 0, static_cast<int>(c.vocabulary));
  for (Index row = 4; row < c.rows; row += 5) targets.data<std::int32_t>()[row] = -1;
  targets.data<std::int32_t>()[0] = static_cast<std::int32_t>(c.vocabulary - 1);
  return targets;
}

struct Reference {
  Values nats, dx, dw;
};
Reference loss_f64(const Case& c, const Values& x, const Values& w, const Values& targets) {
  const auto width = static_cast<std::size_t>(c.width);
  const auto vocabulary = static_cast<std::size_t>(c.vocabulary);
  Reference r{Values(targets.size()), Values(x.size()), Values(w.size())};
  for (std::size_t n = 0; n < targets.size(); ++n) {
    if (targets[n] < 0) continue;
    Values z(vocabulary);
    for (std::size_t v = 0; v < vocabulary; ++v) {
      z[v] = static_cast<double>(c.logit_scale) * std::inner_product(&x[n * width], &x[n * width] + width, &w[v * width], 0.0);
    }
    const double most = *std::max_element(z.begin(), z.end());
    double sum = 0;
    for (const double value : z) sum += std::exp(value - most);
    const auto target = static_cast<std::size_t>(targets[n]);
    r.nats[n] = most + std::log(sum) - z[target];
    for (std::size_t v = 0; v < vocabulary; ++v) {
      const double p = std::exp(z[v] - most) / sum - (v == target ? 1 : 0);
      const double dz = static_cast<double>(c.scale) * static_cast<double>(c.logit_scale) * p;
      for (std::size_t i = 0; i < width; ++i) {
        r.dx[n * width + i] += dz * w[v * width + i];
        r.dw[v * width + i] += dz * x[n * width + i];
      }
    }
  }
  return r;
}

TEST(CrossEntropy, LoopsOfTheTestAreRight) {
  const Case c{"small", 6, 3, 4, 0.7F, 0.3F};
  const Values x = to_f64(random_tensor({6, 3}, 1));
  const Values w = to_f64(random_tensor({4, 3}, 2));
  const Values targets = to_f64(some_targets(c));
  const Reference r = loss_f64(c, x, w, targets);
  const auto total = [&](const Values& some_x, const Values& some_w) {
    const Values nats = loss_f64(c, some_x, some_w, targets).nats;
    return static_cast<double>(c.scale) * std::accumulate(nats.begin(), nats.end(), 0.0);
  };
  expect_close(r.dx, test::numeric_gradient([&](const Values& v) { return total(v, w); }, x), 1e-7, "dx");
  expect_close(r.dw, test::numeric_gradient([&](const Values& v) { return total(x, v); }, w), 1e-7, "dw");
}

TEST(CrossEntropy, AgreesWithLoopsInF32) {
  for (const Case& c : cases()) {
    const Tensor x = random_tensor({c.rows, c.width}, 1);
    const Tensor w = random_tensor({c.vocabulary, c.width}, 2);
    const Tensor targets = some_targets(c);
    const Tensor dw = random_tensor(w.shape(), 3);
    const Values before = to_f64(dw);
    Reference expected = loss_f64(c, to_f64(x), to_f64(w), to_f64(targets));
    for (std::size_t i = 0; i < before.size(); ++i) expected.dw[i] += before[i];
    const CrossEntropyOut out = linear_cross_entropy(cpu(), x, Weights(w, 1), targets, c.logit_scale, c.scale, dw);
    expect_close(out.nats, expected.nats, 1e-5, c.name + ", nats");
    expect_close(out.dx, expected.dx, 1e-5, c.name + ", dx");
    expect_close(dw, expected.dw, 1e-5, c.name + ", dw");
    const CrossEntropyOut loss = linear_cross_entropy(cpu(), x, Weights(w, 1), targets, c.logit_scale, c.scale, {});
    test::expect_same_bits(loss.nats, out.nats, c.name + ", without gradient");
    EXPECT_FALSE(loss.dx.defined());
  }
}

// In bf16 the losses come from exact products; dlogits and dx are rounded once each (2^-8 of each value).
TEST(CrossEntropy, AgreesWithLoopsInBf16) {
  for (const Case& c : cases()) {
    const Tensor x = random_tensor({c.rows, c.width}, 1, 1, DType::bf16);
    const Tensor w = random_tensor({c.vocabulary, c.width}, 2, 1, DType::bf16);
    const Tensor targets = some_targets(c);
    const Tensor dw = Tensor::zeros(cpu(), w.shape());
    const Reference expected = loss_f64(c, to_f64(x), to_f64(w), to_f64(targets));
    const CrossEntropyOut out = linear_cross_entropy(cpu(), x, Weights(w, 1), targets, c.logit_scale, c.scale, dw);
    expect_close(out.nats, expected.nats, 1e-5, c.name + ", nats");
    ASSERT_EQ(out.dx.dtype(), DType::bf16);
    EXPECT_LT(test::relative_error(to_f64(out.dx), expected.dx), 0x1p-8) << c.name;
    EXPECT_LT(test::relative_error(to_f64(dw), expected.dw), 0x1p-8) << c.name;
  }
}

TEST(CrossEntropy, MaskedRowsLeaveNoTrace) {
  const Case c{"", 20, 8, 30};
  const Tensor x = random_tensor({20, 8}, 1);
  const Tensor w = random_tensor({30, 8}, 2);
  const Tensor targets = test::tensor_of({20}, std::vector<int>(20, -1));
  const Tensor dw = Tensor::zeros(cpu(), {30, 8});
  const CrossEntropyOut out = linear_cross_entropy(cpu(), x, Weights(w, 1), targets, 1, 1, dw);
  for (const Tensor& t : {out.nats, out.dx, dw}) {
    for (const float value : t.values<float>()) ASSERT_EQ(value, 0);
  }
}

TEST(CrossEntropy, LargeLogitsDoNotOverflow) {
  const Tensor z = test::tensor_of({3, 3}, std::vector<float>{1000, 999, -1000, -1e30F, -1e30F, -1e30F, 3e38F, 0, 0});
  const Tensor nats(cpu(), {3});
  const Tensor d(cpu(), {3, 3});
  cross_entropy_rows(cpu(), z, test::tensor_of({3}, std::vector<int>{1, 0, 0}), 1, 1, nats, d);
  expect_close(nats, Values{1.3132616875182228, std::log(3.0), 0}, 1e-6, "nats");
  expect_close(d, Values{0.7310585786300049, -0.7310585786300049, 0, -2.0 / 3, 1.0 / 3, 1.0 / 3, 0, 0, 0}, 1e-6, "gradient");
}

TEST(CrossEntropy, ScalesMayBeNegative) {
  const Case c{"", 9, 8, 30, -2};
  const Tensor x = random_tensor({9, 8}, 1, 10);
  const Tensor w = random_tensor({30, 8}, 2, 10);
  const Tensor targets = some_targets(c);
  const CrossEntropyOut out = linear_cross_entropy(cpu(), x, Weights(w, 1), targets, c.logit_scale, 1, {});
  expect_close(out.nats, loss_f64(c, to_f64(x), to_f64(w), to_f64(targets)).nats, 1e-5, "nats");
}

TEST(CrossEntropy, ThreadsAndOtherRowsChangeNothing) {
  const Case c{"", 700, 24, 500};
  const Tensor x = random_tensor({c.rows, c.width}, 1);
  const Weights w(random_tensor({c.vocabulary, c.width}, 2), 1);
  const Tensor targets = some_targets(c);
  const Tensor dw = Tensor::zeros(cpu(), {c.vocabulary, c.width});
  const CrossEntropyOut whole = linear_cross_entropy(cpu(), x, w, targets, 1, 1, dw);
  const int threads = omp_get_max_threads();
  for (const int team : {1, 2, 3}) {
    omp_set_num_threads(team);
    const Tensor again = Tensor::zeros(cpu(), dw.shape());
    const CrossEntropyOut out = linear_cross_entropy(cpu(), x, w, targets, 1, 1, again);
    test::expect_same_bits(out.nats, whole.nats, "nats");
    test::expect_same_bits(out.dx, whole.dx, "dx");
    test::expect_same_bits(again, dw, "dw");
  }
  omp_set_num_threads(threads);
  const CrossEntropyOut part = linear_cross_entropy(cpu(), x.row_range(100, 33), w, targets.row_range(100, 33), 1, 1, dw);
  if (rows_are_invariant(cpu(), DType::f32)) {
    test::expect_same_bits(part.nats, whole.nats.row_range(100, 33), "nats of some rows");
    test::expect_same_bits(part.dx, whole.dx.row_range(100, 33), "dx of some rows");
  }
}

TEST(CrossEntropy, BlocksAreBoundedAndWhole) {
  for (const Index vocabulary : {2, 257, 4096, 32000, 131072}) {
    const Index block = cross_entropy_block(vocabulary);
    EXPECT_EQ(block % 64, 0);
    EXPECT_GE(block, 128);
    EXPECT_TRUE(block == 128 || block * vocabulary <= (Index{2} << 20)) << vocabulary;
  }
}

TEST(CrossEntropy, RefusesWhatDoesNotFit) {
  const Tensor x = random_tensor({2, 8}, 1);
  const Weights w(random_tensor({5, 8}, 2), 1);
  EXPECT_THROW((void)linear_cross_entropy(cpu(), x, w, test::tensor_of({2}, std::vector<int>{0, 5}), 1, 1, {}), Error);
  EXPECT_THROW((void)linear_cross_entropy(cpu(), x, w, test::tensor_of({2}, std::vector<int>{-2, 0}), 1, 1, {}), Error);
  EXPECT_THROW((void)linear_cross_entropy(cpu(), x, w, test::tensor_of({3}, std::vector<int>{0, 0, 0}), 1, 1, {}), Error);
  EXPECT_THROW((void)linear_cross_entropy(cpu(), x, w, random_tensor({2}, 1), 1, 1, {}), Error);
  EXPECT_THROW(
      (void)linear_cross_entropy(cpu(), x, Weights(random_tensor({10, 8}, 2), 2), test::tensor_of({2}, std::vector<int>{0, 0}), 1, 1, {}),
      Error);
  const Tensor none = Tensor::zeros(cpu(), {0, 8});
  EXPECT_EQ(linear_cross_entropy(cpu(), none, w, Tensor::zeros(cpu(), {0}, DType::i32), 1, 1, Tensor::zeros(cpu(), {5, 8})).dx.rows(), 0);
}

}  // namespace
}  // namespace yard::ops
