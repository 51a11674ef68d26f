// Numbers that are none, and gradients that jump: the update is skipped on all ranks alike and counted, or the run stops and says where.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>

#include "tests/support/fault_run.h"

using namespace yard;
using namespace yard::test;
using testing::HasSubstr;

namespace {

/// Rows of width 32 in f32 that rank 1 sends, after the second save has begun: in the next step where files are written at once, later
/// where the thread that writes them waits for a core.
const std::string kPoison = "rank=1 at=write file=step-00000004.tmp/model-* then at=send file=MPI_Isend.128 count=2 do=poison";
const std::string kAtOnce = " --set checkpoint.async=false";

std::vector<long> skips(const FaultRun& runs, const std::string& run) {
  std::vector<long> counts;
  for (const auto& step : runs.outcome(run).steps) {
    const auto& value = step.contains("skipped_steps") ? step["skipped_steps"] : nlohmann::json(0);
    counts.push_back(value.is_string() ? std::stol(value.get<std::string>()) : value.get<long>());
  }
  return counts;
}

TEST(NumericalFaults, ANumberThatIsNoneStopsTheRunAndSaysWhere) {
  const FaultRun runs;
  ASSERT_EQ(runs.run(runs.words("whole", experts()), experts()).code, 0);
  const std::string words = runs.words("r", experts());
  const auto broken = runs.run(words, experts(), kPoison);
  EXPECT_NE(runs.program().read("report"), "");
  expect_sentence(broken, 1, {"not a finite number at step ", "gradients are not finite from ", ".weight"});
  // The files of step 4 may have been written during a later step; saves are those of even steps.
  const std::string before_step = "not a finite number at step ";
  ASSERT_THAT(broken.err, HasSubstr(before_step));
  const long step = std::stol(broken.err.substr(broken.err.find(before_step) + before_step.size()));
  EXPECT_GE(step, 5);
  EXPECT_EQ(runs.complete("r").back(), (step - 1) / 2 * 2) << "a save that was under way when all ranks agreed to stop is finished";
  EXPECT_EQ(runs.run(words, experts()).code, 0);
  expect_same_outcome(runs.outcome("r"), runs.outcome("whole"));
}

TEST(NumericalFaults, AStepIsSkippedOnAllRanksAndNothingChanges) {
  const FaultRun runs;
  const std::string words =
      runs.words("r", experts(), kAtOnce + " --set guard.max_skips=2 --set checkpoint.every=1 --set checkpoint.keep=8");
  const auto result = runs.run(words, experts(), kPoison);
  EXPECT_NE(runs.program().read("report"), "");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(skips(runs, "r"), testing::ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
  const auto file = [&](int step, const std::string& name) {
    return runs.program().read(fmt::format("r/checkpoints/step-{:08}/{}", step, name));
  };
  int compared = 0;
  for (const auto& [name, bytes] : runs.outcome("r").files) {
    EXPECT_EQ(file(5, name), file(4, name)) << name << " was changed by a step that is skipped";
    EXPECT_NE(file(6, name), file(5, name)) << name << " was not changed by the step after it";
    ++compared;
  }
  EXPECT_GE(compared, 4);
  // The data goes on: a skipped batch is not repeated.
  const auto steps = runs.outcome("r").steps;
  EXPECT_NE(steps.at(5)["loss"], steps.at(4)["loss"]);
  EXPECT_EQ(steps.at(7)["tokens"], nlohmann::json(steps.at(0)["tokens"].is_string() ? nlohmann::json("2048") : nlohmann::json(2048)));
}

TEST(NumericalFaults, ASkippedStepSurvivesAResume) {
  const FaultRun runs;
  const std::string settings = kAtOnce + " --set guard.max_skips=2";
  ASSERT_EQ(runs.run(runs.words("whole", experts(), settings), experts(), kPoison).code, 0);
  const std::string words = runs.words("r", experts(), settings);
  ASSERT_EQ(runs.run(words + " --set run.steps=6", experts(), kPoison).code, 0);
  const auto again = runs.run(words, experts());
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(skips(runs, "r"), skips(runs, "whole"));
}

TEST(NumericalFaults, TooManySkipsInARowEndTheRun) {
  const FaultRun runs;
  ASSERT_EQ(runs.run(runs.words("r", experts(), " --set run.steps=4"), experts()).code, 0);
  const auto result =
      runs.run(runs.words("r", experts(), " --set optimizer.peak_rate=1e30 --set guard.max_skips=3 --set run.steps=40"), experts());
  expect_sentence(result, 1, {"guard.max_skips"});
  EXPECT_THAT(result.err, HasSubstr(".weight"));
  const auto counts = skips(runs, "r");
  ASSERT_FALSE(counts.empty());
  EXPECT_EQ(counts.back(), 3);
}

/// 24 steps of the same few tokens and then sequences of others: the gradient jumps once.
TEST(NumericalFaults, AGradientThatJumpsIsSkipped) {
  const FaultRun runs;
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 160 * 8 * 32; ++i) ids.push_back(i % 4);
  for (int i = 140 * 8 * 32; i < 141 * 8 * 32; ++i) ids[static_cast<std::size_t>(i)] = 200 + (i * i / 7) % 50;
  MegatronWriter writer(runs.program() / "jump", 257);
  writer.add_document(ids);
  writer.finish();
  const std::string settings =
      " --set data.train=jump --set run.steps=150 --set checkpoint.every=0 --set run.log_every=50 --set optimizer.warmup_steps=1 --set "
      "optimizer.peak_rate=0.01";
  const auto plain = runs.run(runs.words("plain", experts(), settings), experts());
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(skips(runs, "plain").back(), 0) << "off by default";
  const auto norms = runs.outcome("plain").steps;
  ASSERT_GT(norms.at(140)["grad_norm"].get<double>(), 5 * norms.at(139)["grad_norm"].get<double>()) << "the data makes no jump";
  const auto guarded =
      runs.run(runs.words("guarded", experts(), settings + " --set guard.spike_sigma=8 --set guard.max_skips=3"), experts());
  EXPECT_EQ(guarded.code, 0) << guarded.err;
  const auto counts = skips(runs, "guarded");
  ASSERT_EQ(counts.size(), 150U);
  EXPECT_EQ(counts[139], 0);
  EXPECT_EQ(counts[140], 1);
  EXPECT_LE(counts[149], 2);
}

}  // namespace
