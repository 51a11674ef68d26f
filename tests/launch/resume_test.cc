#include <omp.h>

#include <filesystem>

#include "tests/support/cluster.h"

namespace yard {
namespace {

using namespace test;

constexpr const char* kBase =
    "run { seed: 5 steps: 12 } init { deviation: 0.2 } optimizer { warmup_steps: 2 peak_rate: 0.01 } "
    "data { length: 12 global_batch: 8 accumulate: 2 } "
    "model { vocabulary: 24 width: 12 layers: 2 heads: 2 kv_heads: 1 experts: 4 top_k: 2 hidden: 10 dropout: 0.1 router { jitter: 0.1 } } ";

struct After {
  std::map<std::string, std::vector<double>> values;
  std::vector<double> losses, norms, rates;
  Index tokens = 0;
};

/// Six steps on a rank, without a break or with a checkpoint and a new trainer after three.
After six_steps(Communicator& world, const RunConfig& config, MeshShape shape, const std::string& folder) {
  After after;
  const auto data = small_text(400, 24);  // six steps pass the end of an epoch
  const auto steps = [&](TrainerRig& trainer, Index until) {
    while (trainer->steps_done() < until) {
      const StepReport report = trainer->step();
      after.losses.push_back(report.loss);
      after.norms.push_back(report.norms.all);
      after.rates.push_back(report.learning_rate);
      after.tokens = report.tokens;
    }
  };
  if (folder.empty()) {
    TrainerRig trainer(world, config, data, shape);
    steps(trainer, 6);
    after.values = trainer.values();
    return after;
  }
  std::string where;
  {
    TrainerRig trainer(world, config, data, shape);
    steps(trainer, 3);
    CheckpointWriter writer(writer_settings(folder, config));
    trainer->save(writer);
    where = writer.newest();
  }
  TrainerRig again(world, config, data, shape);
  again->resume(where);
  EXPECT_EQ(again->steps_done(), 3);
  steps(again, 6);
  after.values = again.values();
  return after;
}

class Resume : public testing::TestWithParam<std::tuple<int, int, bool>> {};

TEST_P(Resume, IsBitwiseTheRunWithoutABreak) {
  const auto [expert, data, rounded] = GetParam();
  const MeshShape shape{expert, data};
  RunConfig config = config_of(kBase);
  if (rounded) config.mutable_run()->set_precision(RunConfig::Precision::bf16);
  const TemporaryFolder folder;
  std::vector<After> whole(static_cast<std::size_t>(shape.ranks()));
  std::vector<After> broken(whole.size());
  run_local_world(shape.ranks(), [&](Communicator& world) {
    omp_set_num_threads(1);
    const auto rank = static_cast<std::size_t>(world.rank());
    whole.at(rank) = six_steps(world, config, shape, "");
    broken.at(rank) = six_steps(world, config, shape, folder.path());
  });
  for (std::size_t rank = 0; rank < whole.size(); ++rank) {
    EXPECT_EQ(broken[rank].losses, whole[rank].losses);
    EXPECT_EQ(broken[rank].norms, whole[rank].norms);
    EXPECT_EQ(broken[rank].rates, whole[rank].rates);
    EXPECT_EQ(broken[rank].tokens, whole[rank].tokens);
    for (const auto& [name, values] : whole[rank].values) EXPECT_EQ(broken[rank].values.at(name), values) << name;
  }
  EXPECT_NE(whole[0].losses[3], whole[0].losses[2]);
}

INSTANTIATE_TEST_SUITE_P(Layouts, Resume,
                         testing::Values(std::tuple{1, 1, false}, std::tuple{1, 1, true}, std::tuple{2, 2, false}, std::tuple{2, 2, true}));

/// A checkpoint's values do not mention a layout: a model of another one reads the same numbers.
TEST(Checkpoint, IsReadByEveryLayout) {
  const RunConfig config = config_of(kBase);
  const auto data = small_text(4000, 24);
  const TemporaryFolder folder;
  std::string where;
  std::map<std::string, std::vector<double>> written;
  {
    TrainerRig trainer(config, data);
    trainer->step();
    CheckpointWriter writer(writer_settings(folder.path(), config));
    trainer->save(writer);
    where = writer.newest();
    written = trainer.values();
  }
  EXPECT_EQ(latest_checkpoint(folder.path()), where);
  for (const MeshShape shape : {MeshShape{2, 1}, MeshShape{4, 1}, MeshShape{2, 2}}) {
    run_local_world(shape.ranks(), [&](Communicator& world) {
      TrainerRig trainer(world, config, data, shape);
      trainer->start_from(where);
      for (const auto& [name, values] : trainer.values()) EXPECT_EQ(values, written.at(name)) << name;
    });
  }
}

}  // namespace
}  // namespace yard
