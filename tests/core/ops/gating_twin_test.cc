#include "core/ops/gating.h"

#include <limits>

#include "tests/core/ops/ops_support.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;

TEST(GatingTwin, SoftmaxAndItsGradient) {
  for (const Shape& shape : twin_shapes()) {
    const Tensor logits = random_tensor(shape, 1, 5);
    const Tensor p = ops::softmax(cpu(), logits).p;
    expect_twins(shape.text(), [&](Side& side) {
      const auto out = ops::softmax(side.stream, side.in(logits));
      side.out("p", out.p);
      side.out("log-sum-exp", out.log_sum_exp);
      if (shape[1] > 1) side.out("dlogits", ops::softmax_backward(side.stream, side.in(random_tensor(shape, 2)), side.in(p)));
    });
  }
}

TEST(GatingTwin, TopK) {
  for (const Shape& shape : twin_shapes()) {
    for (const Index k : {Index{1}, Index{2}, Index{8}, shape[1] - 1, shape[1]}) {
      if (k < 1 || k > shape[1] || k > 100) continue;
      expect_twins(shape.text() + ", top " + std::to_string(k), [&](Side& side) {
        const auto top = ops::top_k(side.stream, side.in(random_tensor(shape, 1)), k);
        side.out("index", top.index);
        side.out("value", top.value);
        if (k < shape[1]) side.out("gap", top.gap);
      });
    }
  }
}

TEST(GatingTwin, TiesInfinitiesAndNaN) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> scores = {1,   3, 3, 2,   3,  -0.0F, 0,    1,    inf, inf,  -inf, 0,
                                     nan, 1, 2, nan, -1, 5,     -inf, -inf, nan, -inf, -inf, nan};
  for (const Index k : {1, 2, 3, 6}) {
    const Tensor rows = tensor_of({4, 6}, scores);
    const auto expected = ops::top_k(cpu(), rows, k);
    Side side(gpu(), 0);
    const auto top = ops::top_k(gpu(), side.in(rows), k);
    side.out("index", top.index);
    side.out("value", top.value);
    side.out("gap", top.gap);
    const auto results = side.finish("special scores");
    expect_same_bits(results[0].values, expected.index, "index");
    expect_same_bits(results[1].values, expected.value, "value");
    const auto gaps = to_f64(results[2].values);
    const auto wanted = to_f64(expected.gap);
    for (std::size_t i = 0; i < gaps.size(); ++i) EXPECT_TRUE(gaps[i] == wanted[i] || (std::isnan(gaps[i]) && std::isnan(wanted[i]))) << i;
  }
}

TEST(GatingTwin, ExpertsCounted) {
  for (const Index slots : {0, 1, 700}) {
    expect_twins(std::to_string(slots) + " slots", [&](Side& side) {
      ops::count_experts(side.stream, side.in(random_integers({slots}, 1, -1, 9)),
                         side.changed("counts", Tensor::zeros(cpu(), {9}, DType::i64)));
    });
  }
}

}  // namespace
}  // namespace yard
