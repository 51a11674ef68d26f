// How a training step's collectives are recorded and reported.

#include <omp.h>

#include <algorithm>
#include <map>

#include "launch/step_metrics.h"
#include "tests/support/cluster.h"

namespace yard {
namespace {

using namespace test;

constexpr const char* kConfig =
    "run { steps: 10 } data { length: 10 global_batch: 8 accumulate: 2 } "
    "model { vocabulary: 20 width: 12 layers: 2 heads: 2 experts: 4 top_k: 2 hidden: 10 ";

/// How many collectives of each label rank 0 recorded in the second step, on 2 x 2 ranks.
std::map<std::string, int> labels(const std::string& config, StepReport* report = nullptr) {
  std::map<std::string, int> result;
  const auto data = small_text(3000, 20);
  run_local_world(4, [&](Communicator& world) {
    omp_set_num_threads(1);
    const bool first = world.rank() == 0;
    TrainerRig trainer(world, config_of(config), data, MeshShape{2, 2});
    trainer->step();
    const StepReport second = trainer->step();
    if (!first) return;
    for (const CollectiveRecord& record : second.collectives) ++result[record.label.text()];
    if (report != nullptr) *report = second;
  });
  return result;
}

TEST(Collectives, AreLabelledWithTheLayerEmbeddingOrHead) {
  const std::map<std::string, int> expected = {{"embedding.gradients.dense", 1},
                                               {"layer.0.gradients.dense", 1},
                                               {"layer.1.gradients.dense", 1},
                                               {"head.gradients.dense", 1},
                                               {"layer.0.gradients.expert", 1},
                                               {"layer.1.gradients.expert", 1},
                                               {"embedding.parameters.dense", 1},
                                               {"layer.0.parameters.dense", 1},
                                               {"layer.1.parameters.dense", 1},
                                               {"head.parameters.dense", 1},
                                               {"layer.0.parameters.expert", 1},
                                               {"layer.1.parameters.expert", 1},
                                               {"layer.0.counts", 2},
                                               {"layer.1.counts", 2},
                                               {"layer.0.dispatch", 2},
                                               {"layer.1.dispatch", 2},
                                               {"layer.0.combine", 2},
                                               {"layer.1.combine", 2},
                                               {"layer.0.dispatch.backward", 2},
                                               {"layer.1.dispatch.backward", 2},
                                               {"layer.0.combine.backward", 2},
                                               {"layer.1.combine.backward", 2},
                                               {"routing.counts", 2},
                                               {"gradient.norm", 1},
                                               {"metrics", 1}};
  auto found = labels(std::string(kConfig) + "}");
  // Router, norms and bias-like parameters stay f32; with matrices of the same dtype each group has one buffer per kind.
  EXPECT_EQ(found, expected);
}

/// The first pass's plan serves the recomputed one: counts are exchanged once per layer and micro-batch.
TEST(Collectives, ARecomputedForwardReusesItsPlan) {
  StepReport without;
  StepReport moe;
  StepReport full;
  labels(std::string(kConfig) + "}", &without);
  auto counts = labels(std::string(kConfig) + " recompute: moe }", &moe);
  EXPECT_EQ(counts["layer.1.counts"], 2);
  EXPECT_EQ(counts["layer.1.dispatch"], 4) << "rows are dispatched again";
  counts = labels(std::string(kConfig) + " recompute: full }", &full);
  EXPECT_EQ(counts["layer.0.counts"], 2);
  EXPECT_EQ(counts["layer.0.dispatch"], 4);
  EXPECT_EQ(moe.loss, without.loss);
  EXPECT_EQ(full.norms.all, without.norms.all);
}

/// A whole step is bitwise identical for every number of chunks.
TEST(Collectives, ChunksChangeNoBit) {
  StepReport one;
  StepReport two;
  labels(std::string(kConfig) + "}", &one);
  auto counts = labels(std::string(kConfig) + "} exchange { chunks: 2 }", &two);
  EXPECT_EQ(counts["layer.1.dispatch"], 4);
  EXPECT_EQ(two.loss, one.loss);
  EXPECT_EQ(two.norms.all, one.norms.all);
  EXPECT_EQ(two.norms.expert, one.norms.expert);
}

/// Bytes by peer are those of the exchanged rows, at both ends.
TEST(Collectives, BothEndsOfAnExchangeCountTheSameBytes) {
  const auto data = small_text(3000, 20);
  std::vector<std::vector<CollectiveRecord>> of_rank(2);
  run_local_world(2, [&](Communicator& world) {
    omp_set_num_threads(1);
    TrainerRig trainer(world, config_of(std::string(kConfig) + "}"), data, MeshShape{2, 1});
    of_rank[static_cast<std::size_t>(world.rank())] = trainer->step().collectives;
  });
  int exchanges = 0;
  ASSERT_EQ(of_rank[0].size(), of_rank[1].size());
  for (std::size_t i = 0; i < of_rank[0].size(); ++i) {
    const CollectiveRecord& a = of_rank[0][i];
    const CollectiveRecord& b = of_rank[1][i];
    EXPECT_EQ(a.label.text(), b.label.text());
    if (a.op != "all_to_all") continue;
    ++exchanges;
    ASSERT_EQ(a.peers.size(), 2U);
    ASSERT_EQ(b.peers.size(), 2U);
    EXPECT_EQ(a.peers[1].sent, b.peers[0].received) << a.label.text();
    EXPECT_EQ(a.peers[1].received, b.peers[0].sent) << a.label.text();
    EXPECT_EQ(a.bytes(), a.peers[1].sent);
    if (a.label.kind == "dispatch") {  // rows of 12 f32 and a weight, for every choice of every token
      EXPECT_EQ(a.peers[0].sent + a.peers[1].sent, 20 * 2 * (12 * 4 + 4)) << "2 sequences of 10 tokens, 2 experts each";
    }
  }
  EXPECT_EQ(exchanges, 2 * 2 * 5);
}

/// Names that nothing registers are summed under "other", so that a label of an experiment is not lost and cannot hang the report.
TEST(Collectives, UnregisteredNamesAreSummedUnderOther) {
  const auto data = small_text(3000, 20);
  run_local_world(2, [&](Communicator& world) {
    omp_set_num_threads(1);
    TrainerRig trainer(world, config_of(std::string(kConfig) + "}"), data, MeshShape{1, 2});
    RankRuntime& runtime = trainer.runtime();
    const Tensor x = Tensor::zeros(runtime.host, {5});
    runtime.control.all_reduce(runtime.host, {"an experiment"}, x).wait(runtime.host);
    if (world.rank() == 0) {
      const Span span(runtime.profiler, "something else");
    }
    const StepMetrics metrics = step_metrics(runtime, trainer.config(), 1e6, trainer->step());
    int found = 0;
    for (const auto& each : metrics.communication()) {
      EXPECT_NE(each.name(), "an experiment");
      if (each.name() != "other") continue;
      ++found;
      EXPECT_EQ(each.calls(), 1);
      EXPECT_EQ(each.bytes_within(), 2 * 20) << "2 (n - 1) / n of 20 bytes on each of 2 ranks";
    }
    for (const auto& each : metrics.phases()) {
      if (each.name() != "other") continue;
      ++found;
      EXPECT_EQ(each.max_rank(), 0);
    }
    EXPECT_EQ(found, 2);
  });
}

/// A validation between two steps changes neither the kinds nor the bytes nor the phases of the next step's report.
TEST(Collectives, ValidationIsReportedByItself) {
  const auto data = small_text(3000, 20);
  run_local_world(2, [&](Communicator& world) {
    omp_set_num_threads(1);
    TrainerRig trainer(world, config_of(std::string(kConfig) + "}"), data, MeshShape{2, 1});
    trainer->step();
    const auto tokenizer = open_tokenizer("bytes");
    const Validation validation(data, 10, 8, 2, 0, 0, false, trainer.mesh().batch_shard(), trainer.mesh().batch_shards());
    (void)trainer->validate(validation, tokenizer.get());
    const StepReport report = trainer->step();
    std::map<std::string_view, int> calls;
    for (const CollectiveRecord& record : report.collectives) ++calls[record.label.kind];
    EXPECT_EQ(calls["dispatch"], 2 * 2) << "layers x micro-batches";
    EXPECT_EQ(calls["combine"], 2 * 2);
    EXPECT_EQ(calls["counts"], 2 * 2);
    EXPECT_GT(calls["evaluation.dispatch"], 0);
    EXPECT_EQ(calls["evaluation.dispatch"], calls["evaluation.counts"]);
    EXPECT_GT(report.phases.at("validation"), 0);
  });
}

}  // namespace
}  // namespace yard
