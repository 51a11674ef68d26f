#include "core/ops/adamw.h"

#include "tests/core/ops/ops_support.h"

namespace yard {
namespace {

using namespace test;
using Values = std::vector<double>;

struct State64 {
  Values first, second, master;
};

/// One step after Loshchilov and Hutter, written as in their algorithm 2.
void step64(State64& state, const Values& grad, const ops::AdamWSettings& s) {
  for (std::size_t i = 0; i < grad.size(); ++i) {
    const double g = grad[i] * s.grad_scale;
    state.first[i] = s.beta1 * state.first[i] + (1 - s.beta1) * g;
    state.second[i] = s.beta2 * state.second[i] + (1 - s.beta2) * g * g;
    const double mean = state.first[i] / (1 - std::pow(s.beta1, s.t));
    const double square = state.second[i] / (1 - std::pow(s.beta2, s.t));
    state.master[i] -= s.rate * (mean / (std::sqrt(square) + s.epsilon) + s.decay * state.master[i]);
  }
}

TEST(AdamW, TenStepsAreTheLoop) {
  for (const Index length : {Index{0}, Index{1}, Index{77}, Index{70001}}) {
    const Tensor first = Tensor::zeros(cpu(), {length});
    const Tensor second = Tensor::zeros(cpu(), {length});
    const Tensor master = random_tensor({length}, 1);
    const Tensor value(cpu(), {length}, DType::bf16);
    State64 expected{to_f64(first), to_f64(second), to_f64(master)};
    ops::AdamWSettings settings{.rate = 1e-2, .beta2 = 0.999, .decay = 0.1, .grad_scale = 0.5};
    for (settings.t = 1; settings.t <= 10; ++settings.t) {
      const Tensor grad = random_tensor({length}, 100 + static_cast<std::uint64_t>(settings.t), 0.01F);
      ops::adamw(cpu(), grad, first, second, master, value, settings);
      step64(expected, to_f64(grad), settings);
    }
    expect_close(first, expected.first, 1e-6, "first moment");
    expect_close(second, expected.second, 1e-6, "second moment");
    expect_close(master, expected.master, 1e-6, "master values");
    Tensor rounded = Tensor(cpu(), {length}, DType::bf16);
    for (Index i = 0; i < length; ++i) rounded.data<BFloat16>()[i] = master.data<float>()[i];
    expect_same_bits(value, rounded, "the value is the master rounded");
  }
}

TEST(AdamW, TheValueMayBeTheMaster) {
  const auto run = [](bool aliased) {
    const Tensor grad = random_tensor({1000}, 1);
    const Tensor first = Tensor::zeros(cpu(), {1000});
    const Tensor second = Tensor::zeros(cpu(), {1000});
    const Tensor master = random_tensor({1000}, 2);
    const Tensor value = aliased ? master : Tensor::zeros(cpu(), {1000});
    ops::adamw(cpu(), grad, first, second, master, value, {.rate = 0.1, .decay = 0.1});
    expect_same_bits(master, value, "both hold the new values");
    return value;
  };
  expect_same_bits(run(true), run(false), "in place or beside");
}

TEST(AdamW, ZeroGradientsOnlyDecay) {
  const Tensor zero = Tensor::zeros(cpu(), {8});
  const Tensor master = random_tensor({8}, 2);
  Values expected = to_f64(master);
  ops::adamw(cpu(), zero, zero.clone(cpu()), zero.clone(cpu()), master, master, {.rate = 0.01, .decay = 0.5});
  for (double& value : expected) value *= 1 - 0.01 * 0.5;
  expect_close(master, expected, 1e-7, "values");
}

TEST(AdamW, DoesNotDependOnThreadsNorPlace) {
  const Tensor grad = random_tensor({100000}, 1);
  const auto run = [&](int threads, Index from) {
    return with_threads(threads, [&] {
      const Index count = 100000 - from;
      const Tensor second = random_tensor({100000}, 3);
      for (float& v : second.values<float>()) v = v * v;
      const Tensor master = random_tensor({100000}, 4).row_range(from, count);
      ops::adamw(cpu(), grad.row_range(from, count), random_tensor({100000}, 2).row_range(from, count), second.row_range(from, count),
                 master, master, {.rate = 0.01, .decay = 0.1, .t = 3});
      return master;
    });
  };
  const Tensor one = run(1, 0);
  expect_same_bits(one, run(2, 0), "two threads");
  expect_same_bits(one.row_range(12345, 100000 - 12345), run(2, 12345), "a share of the values, as a rank of several holds it");
}

TEST(AdamW, RefusesWhatDoesNotFit) {
  const Tensor x = Tensor::zeros(cpu(), {4});
  EXPECT_THROW(ops::adamw(cpu(), Tensor::zeros(cpu(), {3}), x, x, x, x, {}), Error);
  EXPECT_THROW(ops::adamw(cpu(), x, x, x, Tensor::zeros(cpu(), {4}, DType::bf16), x, {}), Error);
  EXPECT_THROW(ops::adamw(cpu(), x, x, x, x, x, {.t = 0}), Error);
}

}  // namespace
}  // namespace yard
