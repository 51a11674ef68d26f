#include <omp.h>

#include <filesystem>
#include <set>

#include "core/nn/routing/router_kind.h"
#include "launch/config_reader.h"
#include "launch/config_rules.h"
#include "tests/support/cluster.h"

namespace yard {
namespace {

using namespace test;

constexpr const char* kSmall =
    "run { seed: 5 steps: 30 } init { deviation: 0.2 } optimizer { warmup_steps: 2 peak_rate: 0.01 schedule: constant } "
    "data { length: 12 global_batch: 8 accumulate: 2 } model { vocabulary: 25 width: 12 layers: 2 heads: 2 hidden: 10 }";

std::string preset(std::string_view kind) {
  return std::string(YARD_SOURCE) + "/launch/configs/routers/" + std::string(kind) + ".textproto";
}

/// A small model with the preset of a router; experts are fewer than published ones have.
RunConfig with_preset(std::string_view kind) {
  RunConfig config = config_of(kSmall);
  config.MergeFrom(read_config(preset(kind)));
  auto& model = *config.mutable_model();
  if (model.experts() > 8) model.set_experts(8);
  if (model.router().has_groups()) {
    model.set_top_k(3);
    model.mutable_router()->set_groups(4);
    model.mutable_router()->set_group_top_k(2);
  }
  return config;
}

TEST(Routers, EachHasAPresetAndEachPresetARouter) {
  std::set<std::string> presets;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(YARD_SOURCE) + "/launch/configs/routers"))
    presets.insert(entry.path().stem().string());
  std::set<std::string> kinds;
  for (const RouterKind& kind : router_table()) {
    kinds.emplace(kind.name);
    RunConfig config = read_config(preset(kind.name));
    EXPECT_EQ(config.model().router().kind(), kind.name);
    EXPECT_NO_THROW(resolve(config, 1)) << kind.name;
  }
  EXPECT_EQ(presets, kinds);
}

TEST(Routers, EachTrainsAlikeOnEveryLayout) {
  const auto data = small_text(4000, 25);
  for (const RouterKind& kind : router_table()) {
    SCOPED_TRACE(kind.name);
    const RunConfig config = with_preset(kind.name);
    const LayoutRun first = run_layout(config, data, {1, 1}, 5);
    for (const MeshShape shape : {MeshShape{2, 1}, MeshShape{2, 2}}) {
      const LayoutRun run = run_layout(config, data, shape, 5);
      for (std::size_t step = 0; step < 5; ++step) {
        const StepReport& a = first.steps[step];
        const StepReport& b = run.steps[step];
        EXPECT_NEAR(b.loss, a.loss, 1e-5 * a.loss) << "step " << step;
        EXPECT_EQ(b.tokens_per_expert, a.tokens_per_expert) << "step " << step;
        ASSERT_EQ(b.routing.losses.size(), a.routing.losses.size());
        for (const auto& [name, value] : a.routing.losses) EXPECT_NEAR(b.routing.loss(name), value, 1e-5 * std::abs(value)) << name;
        for (std::size_t layer = 0; layer < a.routing.layers.size(); ++layer)
          EXPECT_EQ(b.routing.layers[layer].per_expert, a.routing.layers[layer].per_expert) << "step " << step;
      }
    }
  }
}

/// Sums of bias_rate towards balance, by the counts of the steps before.
TEST(Routers, TheSelectionBiasFollowsTheCountsOfWholeSteps) {
  const auto data = small_text(4000, 25);
  const RunConfig config = with_preset("sigmoid_top_k");
  const LayoutRun run = run_layout(config, data, {2, 1}, 4);
  const auto rate = static_cast<float>(config.model().router().bias_rate());
  for (std::size_t layer = 0; layer < 2; ++layer) {
    std::vector<float> bias(8, 0.0F);
    for (const StepReport& step : run.steps) {
      const auto& reported = step.routing.layers[layer].per_expert.at("selection_bias");
      EXPECT_EQ(reported, std::vector<double>(bias.begin(), bias.end())) << "step " << step.step;
      const auto& counts = step.tokens_per_expert[layer];
      const Index total = 8 * 12 * 3;
      for (std::size_t e = 0; e < 8; ++e) {
        if (8 * counts[e] != total) bias[e] += 8 * counts[e] < total ? rate : -rate;
      }
    }
    EXPECT_GT(*std::max_element(bias.begin(), bias.end()), 0);
  }
}

/// The bias resumes with the checkpoint, in another layout too.
TEST(Routers, TheSelectionBiasIsInTheCheckpoint) {
  const auto data = small_text(4000, 25);
  const RunConfig config = with_preset("sigmoid_top_k");
  const LayoutRun straight = run_layout(config, data, {1, 1}, 5);
  const TemporaryFolder folder;
  std::string checkpoint;
  run_local_world(2, [&](Communicator& world) {
    omp_set_num_threads(1);
    TrainerRig trainer(world, config, data, {2, 1});
    for (int step = 0; step < 4; ++step) trainer->step();
    CheckpointWriter writer(writer_settings(folder.path(), config));
    trainer->save(writer);
    trainer->finish(writer);
    if (world.rank() == 0) checkpoint = writer.newest();
  });
  TrainerRig resumed(config, data);
  resumed->resume(checkpoint);
  const StepReport report = resumed->step();
  EXPECT_NEAR(report.loss, straight.steps[4].loss, 1e-5 * report.loss);
  for (std::size_t layer = 0; layer < 2; ++layer)
    EXPECT_EQ(report.routing.layers[layer].per_expert, straight.steps[4].routing.layers[layer].per_expert);
}

}  // namespace
}  // namespace yard
