#include "core/ops/routing.h"

#include "core/ops/gating.h"
#include "tests/core/ops/ops_support.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;

constexpr Index kRows = 48;

Tensor probabilities(Index experts) { return ops::softmax(cpu(), random_tensor({kRows, experts}, 1, 2)).p; }
Tensor choices(Index experts, Index k) { return ops::top_k(cpu(), random_tensor({kRows, experts}, 1, 2), k).index; }

/// Token ids with some padding.
Tensor ids() { return random_integers({kRows}, 5, -1, 4); }

Tensor numbers(Shape shape, std::uint64_t seed, int high) {
  const Tensor small = random_integers(shape, seed, 0, high);
  Tensor result(cpu(), shape, DType::i64);
  for (Index i = 0; i < small.elements(); ++i) result.data<std::int64_t>()[i] = small.data<std::int32_t>()[i];
  return result;
}

TEST(RoutingTwin, WeightsOfChoicesAndTheirGradient) {
  for (const Index experts : {1, 5, 70}) {
    for (const Index k : {1, 2, 5}) {
      if (k > experts) continue;
      for (const bool normalize : {true, false}) {
        const Tensor p = probabilities(experts);
        const Tensor choice = choices(experts, k);
        const Tensor weight = ops::choice_weights(cpu(), p, choice, normalize, 1.5F);
        const Tensor some = choice.clone(cpu());
        ops::mask_padding(cpu(), ids(), some);
        expect_twins(std::to_string(experts) + " experts, " + std::to_string(k) + " choices", [&](Side& side) {
          const Tensor scores = side.in(p);
          side.out("weight", ops::choice_weights(side.stream, scores, side.in(choice), normalize, 1.5F));
          side.out("weight of some", ops::choice_weights(side.stream, scores, side.in(some), normalize, 1.5F));
          if (normalize && k == 1) return;  // a constant weight: the gradient is what rounding leaves
          side.out("dlogits", ops::choice_weights_backward(side.stream, side.in(random_tensor({kRows, k}, 3)), scores, side.in(some),
                                                           side.in(weight), normalize, 1.5F));
          ops::mask_padding(side.stream, side.in(ids()), side.changed("choice", choice));
        });
      }
    }
  }
}

TEST(RoutingTwin, CapacityDropsTheSame) {
  for (const ops::DropPolicy policy : {ops::DropPolicy::position, ops::DropPolicy::weight}) {
    for (const Index experts : {3, 40}) {
      for (const Index capacity : {1, 4, 100}) {
        const Tensor choice = choices(experts, 2);
        const Tensor weight = random_integers({kRows, 2}, 7, 0, 3);  // with ties
        Tensor weights(cpu(), {kRows, 2});
        for (Index i = 0; i < weights.elements(); ++i) weights.data<float>()[i] = static_cast<float>(weight.data<std::int32_t>()[i]);
        expect_twins("capacity " + std::to_string(capacity), [&](Side& side) {
          const Tensor dropped = side.changed("dropped", numbers({4}, 1, 9));
          const Tensor seen = side.changed("seen", numbers({4}, 2, 9));
          ops::drop_over_capacity(side.stream, side.changed("choice", choice), side.in(weights), experts, 24, 12, capacity, policy, dropped,
                                  seen);
        });
      }
    }
  }
}

TEST(RoutingTwin, Counts) {
  const Tensor choice = choices(9, 3);
  expect_twins("counts", [&](Side& side) {
    const Tensor counts = side.in(numbers({4, 9}, 3, 50));
    side.out("layers", ops::sum_over_layers(side.stream, counts));
    side.out("sequences", ops::count_by_sequence(side.stream, side.in(choice), 12, 9));
    ops::add_counts(side.stream, counts, side.changed("added", numbers({4, 9}, 4, 50)));
    ops::count_up(side.stream, side.changed("up", numbers({700}, 4, 50)), 11);
    ops::count_slots(side.stream, side.changed("slots", random_integers({700}, 4, 0, 50)), 3);
    ops::invert(side.stream, side.in(tensor_of({4}, std::vector<int>{3, 0, 8, 5})),
                side.changed("inverse", random_integers({9}, 4, 0, 50)));
  });
}

TEST(RoutingTwin, NoiseForcedChoicesAndSigmoid) {
  const Tensor keys = numbers({kRows}, 9, 100000);
  expect_twins("noise", [&](Side& side) {
    side.out("jitter", ops::jitter(side.stream, side.in(random_tensor({kRows, 33}, 1)), 0.1F, 7, side.in(keys)));
  });
  for (const float skew : {0.0F, 0.5F}) {
    for (const Index k : {1, 3, 5}) {
      expect_twins("forced", [&](Side& side) { side.out("choice", ops::forced_choice(side.stream, side.in(keys), 5, k, skew, 7)); });
    }
  }
  expect_twins("sigmoid", [&](Side& side) {
    const Tensor y = ops::sigmoid(cpu(), random_tensor({300}, 1, 5));
    side.out("y", ops::sigmoid(side.stream, side.in(random_tensor({300}, 1, 5))));
    side.out("dx", ops::sigmoid_backward(side.stream, side.in(random_tensor({300}, 2)), side.in(y)));
  });
}

}  // namespace
}  // namespace yard
