#include "core/ops/selection.h"

#include "core/ops/gating.h"
#include "core/ops/routing.h"
#include "tests/core/ops/ops_support.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;

constexpr Index kRows = 48;

Tensor scores_of(Index experts) { return ops::sigmoid(cpu(), random_tensor({kRows, experts}, 1, 2)); }

/// Scores of few values, so that groups tie.
Tensor tied_scores(Index experts) {
  const Tensor whole = random_integers({kRows, experts}, 2, 0, 3);
  Tensor scores(cpu(), whole.shape());
  for (Index i = 0; i < whole.elements(); ++i) scores.data<float>()[i] = static_cast<float>(whole.data<std::int32_t>()[i]) / 4;
  return scores;
}

TEST(SelectionTwin, GroupsAreKeptAlike) {
  for (const Index experts : {1, 8, 72}) {
    for (const Index groups : {1, 4, 8}) {
      if (experts % groups != 0) continue;
      for (const Index kept : {Index{1}, (groups + 1) / 2, groups}) {
        for (const Tensor& scores : {scores_of(experts), tied_scores(experts)}) {
          for (const Tensor& bias : {Tensor(), random_tensor({experts}, 4, 0.25F)}) {
            expect_twins(std::to_string(groups) + " groups of " + std::to_string(experts), [&](Side& side) {
              const auto limited = ops::limit_groups(side.stream, side.in(scores), side.in(bias), groups, kept);
              // Minus infinity is compared by what top-k makes of it: differences of infinities are not numbers.
              side.out("choice", ops::top_k(side.stream, limited.scores, std::max<Index>(1, kept * experts / groups)).index);
              const Tensor margin = side.changed("margin", random_tensor({kRows}, 5));
              ops::lower_to(side.stream, limited.margin, margin);
            });
          }
        }
      }
    }
  }
}

TEST(SelectionTwin, GradientsOfChosenScores) {
  for (const Index experts : {1, 5, 70}) {
    for (const Index k : {1, 2, 5}) {
      if (k > experts) continue;
      const Tensor scores = scores_of(experts);
      const Tensor choice = ops::top_k(cpu(), scores, k).index;
      ops::mask_padding(cpu(), random_integers({kRows}, 5, -1, 4), choice);
      for (const bool normalize : {true, false}) {
        if (normalize && k == 1) continue;  // a constant weight: the gradient is what rounding leaves
        const Tensor weight = ops::choice_weights(cpu(), scores, choice, normalize, 1.5F);
        expect_twins(std::to_string(experts) + " experts, " + std::to_string(k) + " choices", [&](Side& side) {
          side.out("dscores", ops::choice_scores_backward(side.stream, side.in(random_tensor({kRows, k}, 3)), side.in(scores),
                                                          side.in(choice), side.in(weight), normalize, 1.5F));
        });
      }
    }
  }
}

TEST(SelectionTwin, NormalizedRows) {
  for (const Index experts : {1, 5, 70}) {
    for (const Index groups : {1, 4}) {
      expect_twins(std::to_string(experts) + " experts", [&](Side& side) {
        const auto rows = ops::normalize_rows(side.stream, side.in(scores_of(experts)));
        side.out("q", rows.q);
        side.out("sum", rows.sum);
        ops::add_normalized_gradient(side.stream, rows, side.in(random_integers({kRows}, 5, -1, 4)),
                                     side.in(random_tensor({groups, experts}, 6)),
                                     side.changed("dscores", random_tensor({kRows, experts}, 8)));
      });
    }
  }
}

TEST(SelectionTwin, SelectionBiasSteps) {
  for (const Index experts : {1, 4, 300}) {
    const Tensor few = random_integers({experts}, 3, 0, 4);
    Tensor counts(cpu(), {experts}, DType::i64);
    for (Index e = 0; e < experts; ++e) counts.data<std::int64_t>()[e] = few.data<std::int32_t>()[e];
    expect_twins(std::to_string(experts) + " experts", [&](Side& side) {
      ops::step_selection_bias(side.stream, side.in(counts), 0.125F, side.changed("bias", random_tensor({experts}, 2)));
    });
  }
}

}  // namespace
}  // namespace yard
