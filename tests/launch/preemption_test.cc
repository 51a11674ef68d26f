// Signals and time limits: all ranks agree at the step's end, save, and end with 0 and the sentence that says how to go on; the same
// command line then reaches what the undisturbed run reached.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "tests/support/fault_run.h"

using namespace yard;
using namespace yard::test;
using testing::HasSubstr;

namespace {

class Preemption : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    runs() = std::make_unique<FaultRun>();
    for (const FaultLayout& layout : {experts(), alone()}) {
      EXPECT_EQ(runs()->run(runs()->words("whole-" + layout.name, layout), layout).code, 0);
    }
  }
  static void TearDownTestSuite() { runs().reset(); }
  static std::unique_ptr<FaultRun>& runs() {
    static std::unique_ptr<FaultRun> made;
    return made;
  }
  /// Fails unless the run saved and told how to go on; the step that it saved.
  static int expect_saved(const CommandResult& result, const std::string& run) {
    EXPECT_EQ(result.code, 0) << result.err;
    const std::string text = result.out + result.err;
    EXPECT_THAT(text, testing::ContainsRegex("same command.* goes on from .*checkpoints/step-0000000[0-9]")) << text;
    const auto complete = runs()->complete(run);
    EXPECT_FALSE(complete.empty());
    const auto lines = runs()->outcome(run).steps.size();
    const int step = complete.empty() ? -1 : complete.back();
    EXPECT_EQ(static_cast<int>(lines), step) << "steps that were made and not saved are lost";
    return step;
  }
  static void interrupt(const std::string& run, const FaultLayout& layout, const std::string& plan) {
    SCOPED_TRACE(plan);
    const std::string words = runs()->words(run, layout);
    const int step = expect_saved(runs()->run(words, layout, plan, run + ".report"), run);
    EXPECT_NE(runs()->program().read(run + ".report"), "") << "the signal was not sent";
    EXPECT_LT(step, 8);
    const auto again = runs()->run(words, layout);
    EXPECT_EQ(again.code, 0) << again.err;
    EXPECT_THAT(again.out, HasSubstr("goes on from " + run + "/checkpoints/step-0000000" + std::to_string(step) + " at step"));
    // The checkpoint that the signal asked for may be among the two that are kept.
    Outcome outcome = runs()->outcome(run);
    const Outcome whole = runs()->outcome("whole-" + layout.name);
    outcome.names = whole.names;
    expect_same_outcome(outcome, whole);
    EXPECT_EQ(runs()->complete(run).back(), 8);
  }
};

TEST_F(Preemption, ASignalToAnyRankSavesAndEndsWell) {
  int number = 0;
  for (const std::string rank : {"0", "1"}) {
    for (const std::string signal : {"USR1", "TERM"}) {
      // In the exchange of a step that no save follows, after one that a save followed.
      interrupt("rank-" + std::to_string(number++), experts(),
                "rank=" + rank + " at=write file=step-00000004.tmp/model-* then at=send count=7 do=signal:" + signal);
    }
  }
}

TEST_F(Preemption, ASignalAtOtherMomentsToo) {
  interrupt("setting-up", experts(), "rank=1 at=collective count=6 do=signal:USR1");
  interrupt("first-step", experts(), "rank=0 at=send count=2 do=signal:TERM");
  interrupt("while-saving", experts(), "rank=1 at=write file=step-00000004.tmp/model-* do=signal:TERM");
  interrupt("while-committing", experts(), "rank=0 at=rename file=step-00000004.tmp do=signal:USR1");
}

TEST_F(Preemption, ASignalToMpirunReachesAllRanks) {
  interrupt("mpirun", experts(), "rank=1 at=write file=step-00000002.tmp/model-* do=signal-parent:USR1");
}

TEST_F(Preemption, ASignalToALoneProcess) {
  interrupt("alone-usr1", alone(), "at=write file=metrics.jsonl count=5 do=signal:USR1");
  interrupt("alone-term", alone(), "at=write file=metrics.jsonl count=3 do=signal:TERM");
}

TEST_F(Preemption, AnotherNumberOfRanksGoesOn) {
  const std::string plan = "rank=1 at=write file=step-00000004.tmp/model-* then at=send count=7 do=signal:USR1";
  const auto expected = runs()->outcome("whole-experts").steps;
  const std::vector<FaultLayout> others = {
      alone(), replicas(), {"four", 4, " --set mesh.expert=2 --set mesh.data=2"}, {"four-experts", 4, " --set mesh.expert=4"}};
  for (const FaultLayout& other : others) {
    SCOPED_TRACE(other.name);
    const std::string run = "then-" + other.name;
    expect_saved(runs()->run(runs()->words(run, experts()), experts(), plan), run);
    const auto again = runs()->run(runs()->words(run, other), other);
    EXPECT_EQ(again.code, 0) << again.err;
    const auto steps = runs()->outcome(run).steps;
    ASSERT_EQ(steps.size(), expected.size());
    for (std::size_t i = 0; i < steps.size(); ++i) {
      EXPECT_NEAR(steps[i]["loss"].get<double>(), expected[i]["loss"].get<double>(), 1e-6 * expected[i]["loss"].get<double>());
      EXPECT_NEAR(steps[i]["grad_norm"].get<double>(), expected[i]["grad_norm"].get<double>(),
                  1e-4 * expected[i]["grad_norm"].get<double>());
    }
  }
}

TEST_F(Preemption, ATimeLimitDoesTheSame) {
  const std::string words = "train --config c --run-dir timed --set run.steps=1000000 --set checkpoint.every=0 --set mesh.expert=2";
  const auto result = runs()->run(words + " --exit-after 2s", experts());
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out + result.err, HasSubstr("same command"));
  const auto complete = runs()->complete("timed");
  ASSERT_EQ(complete.size(), 1U);
  EXPECT_GT(complete[0], 2);
  EXPECT_EQ(runs()->outcome("timed").steps.size(), static_cast<std::size_t>(complete[0]));
  const auto again = runs()->run(words + " --exit-after 1s", experts());
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("at step " + std::to_string(complete[0])));
  EXPECT_GT(runs()->complete("timed").back(), complete[0]);
  for (const std::string wrong : {"s", "-1s", "1x", "nan"}) {
    const auto refused = runs()->run("train --config c --run-dir wrong --exit-after '" + wrong + "'", alone());
    EXPECT_EQ(refused.code, 2) << wrong << refused.err;
    EXPECT_THAT(refused.err, HasSubstr("exit-after")) << wrong;
  }
}

}  // namespace
