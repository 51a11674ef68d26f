#include <cmath>

#include "tests/support/cluster.h"

namespace yard {
namespace {

using namespace test;

// Epsilon lies above the rounding of gradients: AdamW would make steps of what is noise there.
constexpr const char* kBase =
    "run { seed: 5 steps: 10 } init { deviation: 0.2 } optimizer { warmup_steps: 2 peak_rate: 0.01 epsilon: 1e-6 } "
    "data { length: 12 global_batch: 8 accumulate: 2 } "
    "model { vocabulary: 24 width: 12 layers: 2 heads: 2 kv_heads: 1 experts: 4 top_k: 2 hidden: 10 } ";

struct Case {
  std::string name, config;
};

std::vector<Case> cases() {
  return {{"Mixtral", ""},
          {"by sequence, jitter, dropout", "losses { scope: sequence } model { dropout: 0.1 expert_dropout: 0.2 router { jitter: 0.1 } }"},
          {"Switch", "model { top_k: 1 router { capacity_factor: 0.8 } }"},
          {"shared, pooled, dense between",
           "losses { convention: huggingface } model { layers: 4 moe_every: 2 shared_experts: 1 shared_gate: true dense_after: 6 "
           "tied_output: true }"}};
}

class Layouts : public testing::TestWithParam<std::size_t> {};

TEST_P(Layouts, DoNotChangeTheResult) {
  const Case c = cases().at(GetParam());
  RunConfig config = config_of(kBase);
  config.MergeFrom(config_of(c.config));
  const auto data = small_text(4000, 24);
  const LayoutRun first = run_layout(config, data, {1, 1}, 3);
  EXPECT_LT(first.steps.back().loss, first.steps.front().loss + 0.5);
  for (const MeshShape shape : {MeshShape{2, 1}, MeshShape{1, 2}, MeshShape{2, 2}, MeshShape{4, 1}, MeshShape{1, 4}}) {
    SCOPED_TRACE(c.name + " on " + std::to_string(shape.expert) + "x" + std::to_string(shape.data));
    const LayoutRun run = run_layout(config, data, shape, 3);
    for (std::size_t step = 0; step < 3; ++step) {
      const StepReport& a = first.steps[step];
      const StepReport& b = run.steps[step];
      const double slack = step == 0 ? 1 : 10;  // AdamW's first steps widen rounding where a gradient is noise
      EXPECT_NEAR(b.loss, a.loss, slack * 1e-6 * a.loss) << "step " << step;
      EXPECT_NEAR(b.routing.loss("balance"), a.routing.loss("balance"), slack * 1e-6);
      EXPECT_NEAR(b.routing.loss("z"), a.routing.loss("z"), slack * 1e-6 * std::max(1.0, a.routing.loss("z")));
      EXPECT_NEAR(b.norms.all, a.norms.all, slack * 1e-5 * a.norms.all);
      EXPECT_NEAR(b.norms.dense, a.norms.dense, slack * 1e-5 * a.norms.dense);
      EXPECT_NEAR(b.norms.router, a.norms.router, slack * 1e-5 * a.norms.router);
      EXPECT_NEAR(b.norms.expert, a.norms.expert, slack * 1e-5 * a.norms.expert);
      EXPECT_EQ(b.tokens_per_expert, a.tokens_per_expert);
      ASSERT_EQ(b.routing.scalars.size(), a.routing.scalars.size());
      for (const auto& [name, mean] : a.routing.scalars) EXPECT_EQ(b.routing.scalars.at(name).parts(), mean.parts()) << name;
    }
    ASSERT_EQ(run.values.size(), first.values.size());
    for (const auto& [name, values] : first.values) EXPECT_LE(relative_error(run.values.at(name), values), 5e-6) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Layouts, testing::Range(std::size_t{0}, std::size_t{4}));

TEST(SameLayout, TwiceIsBitwiseTheSame) {
  RunConfig config = config_of(kBase);
  const auto data = small_text(4000, 24);
  for (const MeshShape shape : {MeshShape{1, 1}, MeshShape{2, 2}}) {
    const LayoutRun a = run_layout(config, data, shape, 3);
    const LayoutRun b = run_layout(config, data, shape, 3);
    EXPECT_EQ(a.values, b.values);
    for (std::size_t step = 0; step < 3; ++step) {
      EXPECT_EQ(a.steps[step].loss, b.steps[step].loss);
      EXPECT_EQ(a.steps[step].norms.all, b.steps[step].norms.all);
    }
  }
}

}  // namespace
}  // namespace yard
