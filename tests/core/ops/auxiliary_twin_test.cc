#include "core/ops/auxiliary.h"

#include "core/ops/gating.h"
#include "tests/core/ops/ops_support.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;

constexpr Index kRows = 48;

/// Token ids with some padding.
Tensor ids() { return random_integers({kRows}, 5, -1, 4); }

Tensor numbers(Shape shape, std::uint64_t seed, int high) {
  const Tensor small = random_integers(shape, seed, 0, high);
  Tensor result(cpu(), shape, DType::i64);
  for (Index i = 0; i < small.elements(); ++i) result.data<std::int64_t>()[i] = small.data<std::int32_t>()[i];
  return result;
}

TEST(AuxiliaryTwin, Gradients) {
  for (const Index experts : {1, 5, 70}) {
    const auto softmax = ops::softmax(cpu(), random_tensor({kRows, experts}, 1, 2));
    for (const Tensor& coefficient : {Tensor(), random_tensor({1, experts}, 6), random_tensor({4, experts}, 6)}) {
      expect_twins(std::to_string(experts) + " experts", [&](Side& side) {
        ops::add_auxiliary_gradient(side.stream, side.in(softmax.p), side.in(softmax.log_sum_exp), side.in(ids()), side.in(coefficient),
                                    0.1F, side.changed("dlogits", random_tensor({kRows, experts}, 8)));
      });
    }
  }
}

TEST(AuxiliaryTwin, Losses) {
  for (const Index experts : {1, 5, 70, 300}) {
    const auto softmax = ops::softmax(cpu(), random_tensor({kRows, experts}, 1, 2));
    const Tensor padded = ids();
    for (Index n = 12; n < 24; ++n) padded.data<std::int32_t>()[n] = -1;  // a whole sequence
    expect_twins(
        std::to_string(experts) + " experts",
        [&](Side& side) {
          const Tensor tokens = side.in(padded);
          const Tensor sums = ops::sum_by_sequence(side.stream, side.in(softmax.p), tokens, 12);
          side.out("sums", sums);
          const Tensor into = side.changed("losses", tensor_of({3}, std::vector<double>{0.5, 0.25, 1}));
          ops::add_balance_loss(side.stream, sums, side.in(numbers({experts}, 3, 50)), 2, 96, into.row_range(0, 1));
          ops::add_balance_loss(side.stream, sums, side.in(numbers({4, experts}, 4, 50)), 2, 8, into.row_range(1, 1));
          ops::add_z_loss(side.stream, side.in(softmax.log_sum_exp), tokens, 12, 96, into.row_range(2, 1));
        },
        1e-12);
  }
}

TEST(AuxiliaryTwin, ReportsAndCoefficients) {
  expect_twins(
      "reports",
      [&](Side& side) {
        const Tensor into = side.changed("report", tensor_of({300}, std::vector<double>(300, 0.5)));
        ops::add_to_report(side.stream, side.in(random_tensor({300}, 1)), into);
        ops::add_to_report(side.stream, side.in(numbers({300}, 2, 1000)), into);
      },
      1e-15);
  expect_twins("coefficients", [&](Side& side) {
    side.out("scaled", ops::scaled_counts(side.stream, side.in(numbers({4, 9}, 3, 50)), 0.37));
  });
}

}  // namespace
}  // namespace yard
