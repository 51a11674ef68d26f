// What may happen to a run while it saves and trains: in each case the program ends in time, there is a complete checkpoint wherever there
// was one, and the same command line reaches what the undisturbed run reached, bitwise.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <future>
#include <iostream>
#include <thread>

#include "tests/support/fault_run.h"

using namespace yard;
using namespace yard::test;
using testing::HasSubstr;

namespace {

/// How the run with the fault ends.
enum class End {
  killed,    // 137, as mpirun says it
  failed,    // 1, with one sentence on what could not be written and why
  stalled,   // 1, by the watchdog
  unharmed,  // 0
};

struct Fault {
  std::string name, plan;
  End end = End::killed;
  FaultLayout layout = experts();
  int complete = 2;  // the step of the checkpoint that must be there afterwards; 0: none yet
};

void PrintTo(const Fault& fault, std::ostream* out) { *out << fault.plan; }

constexpr double kWatchdogSeconds = 2;

/// The folder of the second save, which comes when one is complete.
const std::string kSave = "file=step-00000004.tmp";

std::vector<Fault> deaths_while_files_are_written() {
  return {{"BeforeTheFolder", "rank=0 at=make " + kSave + " do=kill"},
          {"AfterTheFolder", "rank=0 at=make " + kSave + " do=kill-after"},
          {"BeforeTheFirstFileOfRank1", "rank=1 at=open " + kSave + "/* do=kill"},
          {"OpeningTheModel", "rank=0 at=open " + kSave + "/model-* do=kill"},
          {"BeforeTheModelsBytes", "rank=1 at=write " + kSave + "/model-* do=kill"},
          {"InTheModelsBytes0", "rank=0 at=write " + kSave + "/model-* do=kill-half"},
          {"InTheModelsBytes1", "rank=1 at=write " + kSave + "/model-* do=kill-half"},
          {"BeforeTheModelsSync", "rank=0 at=sync " + kSave + "/model-* do=kill"},
          {"AfterTheModelsSync", "rank=1 at=sync " + kSave + "/model-* do=kill-after"},
          {"InTheOptimizersBytes0", "rank=0 at=write " + kSave + "/optimizer-* do=kill-half"},
          {"InTheOptimizersBytes1", "rank=1 at=write " + kSave + "/optimizer-* do=kill-half"},
          {"BeforeTheOptimizersSync", "rank=1 at=sync " + kSave + "/optimizer-* do=kill"},
          {"AfterTheOptimizersSync", "rank=0 at=sync " + kSave + "/optimizer-* do=kill-after"},
          {"InTheIndex", "rank=0 at=write " + kSave + "/model.safetensors.index.json do=kill-half"},
          {"InTheGenerationConfiguration", "rank=0 at=write " + kSave + "/generation_config.json do=kill-half"},
          {"InTheModelWhileWaiting", "rank=1 at=write " + kSave + "/model-* do=kill-half", End::killed, waiting()},
          {"InTheOptimizerWhileWaiting", "rank=0 at=write " + kSave + "/optimizer-* do=kill-half", End::killed, waiting()},
          {"InTheConfiguration", "rank=0 at=write " + kSave + "/config.json do=kill-half"},
          {"OfAReplica", "rank=1 at=write " + kSave + "/* do=kill-half", End::killed, replicas()},
          {"OfTheOnlyRank", "at=write " + kSave + "/optimizer-* do=kill-half", End::killed, alone()}};
}

std::vector<Fault> deaths_in_the_commit() {
  return {{"InTheAgreement0", "rank=0 at=sync " + kSave + "/optimizer-* then at=collective do=kill"},
          {"InTheAgreement1", "rank=1 at=sync " + kSave + "/optimizer-* then at=collective do=kill"},
          {"BeforeTheState", "rank=0 at=open " + kSave + "/state.json do=kill"},
          {"InTheState", "rank=0 at=write " + kSave + "/state.json do=kill-half"},
          {"BeforeTheStatesSync", "rank=0 at=sync " + kSave + "/state.json do=kill"},
          {"AfterTheStatesSync", "rank=0 at=sync " + kSave + "/state.json do=kill-after"},
          {"BeforeTheFoldersSync", "rank=0 at=sync " + kSave + " do=kill"},
          {"BeforeTheRename", "rank=0 at=rename " + kSave + " do=kill"},
          {"AfterTheRename", "rank=0 at=rename " + kSave + " do=kill-after", End::killed, experts(), 4},
          {"BeforeTheParentsSync", "rank=0 at=rename " + kSave + " then at=sync file=checkpoints do=kill", End::killed, experts(), 4},
          {"BeforeLatest", "rank=0 at=open file=latest.tmp count=2 do=kill", End::killed, experts(), 4},
          {"InLatest", "rank=0 at=write file=latest.tmp count=2 do=kill-half", End::killed, experts(), 4},
          {"BeforeLatestIsReplaced", "rank=0 at=rename file=latest.tmp count=2 do=kill", End::killed, experts(), 4},
          {"AfterLatestIsReplaced", "rank=0 at=rename file=latest.tmp count=2 do=kill-after", End::killed, experts(), 4},
          {"TheOnlyRankBeforeTheRename", "at=rename " + kSave + " do=kill", End::killed, alone()},
          {"BeforeTheRenameWhileWaiting", "rank=0 at=rename " + kSave + " do=kill", End::killed, waiting()},
          {"AfterTheRenameWhileWaiting", "rank=0 at=rename " + kSave + " do=kill-after", End::killed, waiting(), 4},
          {"BeforeTheFirstRename", "rank=0 at=rename file=step-00000002.tmp do=kill", End::killed, experts(), 0},
          {"AfterTheFirstRename", "rank=0 at=rename file=step-00000002.tmp do=kill-after", End::killed, experts(), 2},
          {"BeforeTheFirstLatest", "rank=0 at=rename file=latest.tmp do=kill", End::killed, experts(), 2}};
}

std::vector<Fault> deaths_elsewhere() {
  return {{"BeforePruning", "rank=0 at=rename file=step-00000002 do=kill", End::killed, experts(), 6},
          {"AfterTheRenameOfPruning", "rank=0 at=rename file=step-00000002 do=kill-after", End::killed, experts(), 6},
          {"PruningTheFirstFile", "rank=0 at=remove file=step-00000002*/* do=kill", End::killed, experts(), 6},
          {"PruningTheThirdFile", "rank=0 at=remove file=step-00000002*/* count=3 do=kill-after", End::killed, experts(), 6},
          {"PruningTheFolder", "rank=0 at=remove file=step-00000002* do=kill", End::killed, experts(), 6},
          {"InTheFirstStep", "rank=1 at=send count=5 do=kill", End::killed, experts(), 0},
          {"InTheExchangeOfStep5", "rank=0 at=write file=metrics.jsonl count=4 then at=send count=5 do=kill"},
          {"InTheExchangeAfterASave", "rank=1 at=sync " + kSave + "/optimizer-* then at=send count=9 do=kill"},
          {"InAReductionOfStep5", "rank=0 at=write file=metrics.jsonl count=4 then at=collective file=MPI_*llreduce count=3 do=kill"},
          {"InAGatherOfStep6", "rank=1 at=sync " + kSave + "/optimizer-* then at=collective file=MPI_*llgather count=6 do=kill"},
          {"OfAReplicaInAStep", "rank=1 at=collective count=40 do=kill", End::killed, replicas(), 0},
          {"InALineOfTheMetrics", "rank=0 at=write file=metrics.jsonl count=6 do=kill-half", End::killed, waiting(), 4},
          {"InALineOfTheLog", "rank=0 at=write file=log.txt count=6 do=kill-half"},
          {"InAnEventOfTensorBoard", "rank=0 at=write file=events.out.* count=7 do=kill-half", End::killed, waiting(), 4},
          {"InTheResolvedConfiguration", "rank=0 at=write file=config.textproto.tmp do=kill-half", End::killed, experts(), 0},
          {"BeforeTheResolvedConfigurationIsThere", "rank=0 at=rename file=config.textproto.tmp do=kill", End::killed, experts(), 0},
          {"InTheLastSave", "rank=1 at=write file=step-00000008.tmp/model-* do=kill-half", End::killed, experts(), 6},
          {"BeforeTheLastRename", "rank=0 at=rename file=step-00000008.tmp do=kill", End::killed, experts(), 6}};
}

std::vector<Fault> writes_that_fail() {
  return {{"NoSpaceForTheFolder", "rank=0 at=make " + kSave + " do=fail:ENOSPC", End::failed},
          {"NoSpaceToOpenTheModel", "rank=1 at=open " + kSave + "/model-* do=fail:ENOSPC", End::failed},
          {"NoSpaceForTheModel0", "rank=0 at=write " + kSave + "/model-* do=fail:ENOSPC", End::failed},
          {"NoSpaceForTheModel1", "rank=1 at=write " + kSave + "/model-* do=short", End::failed},
          {"NoSpaceForTheOptimizer0", "rank=0 at=write " + kSave + "/optimizer-* do=short", End::failed},
          {"NoSpaceForTheOptimizer1", "rank=1 at=write " + kSave + "/optimizer-* do=fail:ENOSPC", End::failed},
          {"NoSpaceWhileWaiting", "rank=1 at=write " + kSave + "/* do=short", End::failed, waiting()},
          {"NoSpaceOnBoth", "at=write " + kSave + "/* do=short", End::failed},
          {"NoSpaceForTheIndex", "at=write " + kSave + "/model.safetensors.index.json do=short", End::failed},
          {"NoSpaceForTheConfiguration", "at=write " + kSave + "/config.json do=fail:ENOSPC", End::failed},
          {"NoSpaceForTheState", "at=write " + kSave + "/state.json do=short", End::failed},
          {"NoSpaceForLatest", "at=write file=latest.tmp count=2 do=short", End::failed, experts(), 4},
          {"NoSpaceForTheMetrics", "at=write file=metrics.jsonl count=6 do=short", End::failed, waiting(), 4},
          {"NoSpaceForTheLog", "at=write file=log.txt count=6 do=short", End::failed},
          {"TheModelsSyncFails", "rank=1 at=sync " + kSave + "/model-* do=fail:EIO", End::failed},
          {"TheStatesSyncFails", "at=sync " + kSave + "/state.json do=fail:EIO", End::failed},
          {"TheFoldersSyncFails", "at=sync " + kSave + " do=fail:EIO", End::failed},
          {"TheParentsSyncFails", "at=rename " + kSave + " then at=sync file=checkpoints do=fail:EIO", End::failed},
          {"TheRenameFails", "at=rename " + kSave + " do=fail:EIO", End::failed},
          {"TheRenameOfLatestFails", "at=rename file=latest.tmp count=2 do=fail:EIO", End::failed, experts(), 4},
          {"NoSpaceForTheOnlyRank", "at=write " + kSave + "/model-* do=short", End::failed, alone()},
          {"NoSpaceForAReplica", "rank=1 at=write " + kSave + "/* do=short", End::failed, replicas()},
          {"AWriteInTwoParts", "at=write " + kSave + "/model-* do=half", End::unharmed, experts(), 4},
          {"AStateInTwoParts", "at=write " + kSave + "/state.json do=half", End::unharmed, experts(), 4},
          {"AnInterruptedWrite", "at=write " + kSave + "/optimizer-* do=fail-once:EINTR", End::unharmed, experts(), 4}};
}

std::vector<Fault> ranks_that_stall() {
  return {{"InACollective", "rank=1 at=sync " + kSave + "/optimizer-* then at=collective count=9 do=stall", End::stalled},
          {"InTheExchange", "rank=0 at=write file=metrics.jsonl count=5 then at=send count=3 do=stall", End::stalled, waiting(), 4},
          {"WritingTheModel", "rank=1 at=sync " + kSave + "/model-* do=stall", End::stalled},
          {"WritingTheModelWhileWaiting", "rank=0 at=sync " + kSave + "/model-* do=stall", End::stalled, waiting()},
          {"WritingTheState", "rank=0 at=sync " + kSave + "/state.json do=stall", End::stalled}};
}

std::vector<Fault> all_faults() {
  std::vector<Fault> all;
  for (const auto& some :
       {deaths_while_files_are_written(), deaths_in_the_commit(), deaths_elsewhere(), writes_that_fail(), ranks_that_stall()}) {
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

/// What was seen of one case.
struct Seen {
  CommandResult broken, again;
  double seconds = 0;
  std::string report;
  std::vector<int> complete;  // after the fault
  Outcome outcome;
  std::vector<int> complete_at_last;
};

/// The cases that were asked for, several at once: most of their time mpirun waits for ranks to die.
class Cases {
 public:
  Cases() {
    for (const FaultLayout& layout : {experts(), waiting(), replicas(), alone()}) {
      const auto result = runs_.run(runs_.words("whole-" + layout.name, layout), layout);
      EXPECT_EQ(result.code, 0) << result.err;
      undisturbed_[layout.name] = runs_.outcome("whole-" + layout.name);
    }
    const testing::TestSuite* suite = testing::UnitTest::GetInstance()->current_test_suite();
    const auto all = all_faults();
    for (int i = 0; i < suite->total_test_count(); ++i) {
      if (!suite->GetTestInfo(i)->should_run()) continue;
      const auto index = static_cast<std::size_t>(i);
      seen_[all[index].name] = std::make_unique<std::packaged_task<Seen()>>([this, fault = all[index]] { return observe(fault); });
      order_.push_back(all[index].name);
      results_[all[index].name] = seen_[all[index].name]->get_future();
    }
    for (int i = 0; i < 4; ++i) {
      workers_.emplace_back([this] {
        for (std::size_t mine = next_++; mine < order_.size(); mine = next_++) (*seen_.at(order_[mine]))();
      });
    }
  }
  Cases(const Cases&) = delete;
  Cases& operator=(const Cases&) = delete;
  ~Cases() {
    for (std::thread& worker : workers_) worker.join();
    std::cout << "fault cases: " << order_.size() << ", of which " << reached
              << " ended in time and then reached what the undisturbed run reached, bitwise\n";
  }
  const Outcome& undisturbed(const FaultLayout& layout) const { return undisturbed_.at(layout.name); }
  Seen seen(const std::string& name) { return results_.at(name).get(); }
  std::size_t reached = 0;

 private:
  Seen observe(const Fault& fault) const {
    Seen seen;
    const std::string watchdog = fault.end == End::stalled ? " --set run.watchdog_seconds=" + std::to_string(kWatchdogSeconds) : "";
    const std::string words = runs_.words(fault.name, fault.layout, watchdog);
    const auto from = std::chrono::steady_clock::now();
    seen.broken = runs_.run(words, fault.layout, fault.plan, fault.name + ".report");
    seen.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
    seen.report = runs_.program().read(fault.name + ".report");
    seen.complete = runs_.complete(fault.name);
    seen.again = runs_.run(words, fault.layout);
    seen.outcome = runs_.outcome(fault.name);
    seen.complete_at_last = runs_.complete(fault.name);
    return seen;
  }
  FaultRun runs_;
  std::map<std::string, Outcome> undisturbed_;
  std::map<std::string, std::unique_ptr<std::packaged_task<Seen()>>> seen_;
  std::map<std::string, std::future<Seen>> results_;
  std::vector<std::string> order_;
  std::atomic<std::size_t> next_ = 0;
  std::vector<std::thread> workers_;
};

class Faults : public testing::TestWithParam<Fault> {
 protected:
  static void SetUpTestSuite() { cases() = std::make_unique<Cases>(); }
  static void TearDownTestSuite() { cases().reset(); }
  static std::unique_ptr<Cases>& cases() {
    static std::unique_ptr<Cases> made;
    return made;
  }
};

void expect_end(const CommandResult& result, End end, double seconds) {
  switch (end) {
    case End::killed:
      EXPECT_EQ(result.code, 137) << result.err;
      break;
    case End::failed:
      expect_sentence(result, 1, {"cannot "});
      EXPECT_THAT(result.err, testing::AnyOf(HasSubstr("No space left on device"), HasSubstr("Input/output error")));
      break;
    case End::stalled:
      EXPECT_EQ(result.code, 1) << result.err;
      EXPECT_THAT(result.err, HasSubstr("watchdog: "));
      EXPECT_LT(seconds, kWatchdogSeconds + 10);
      break;
    case End::unharmed:
      EXPECT_EQ(result.code, 0) << result.err;
      break;
  }
  EXPECT_LT(seconds, 30);
}

TEST_P(Faults, TheSameCommandLineReachesTheSameEnd) {
  const Fault& fault = GetParam();
  const Outcome& expected = cases()->undisturbed(fault.layout);
  ASSERT_EQ(expected.steps.size(), 8U);
  ASSERT_GE(expected.files.size(), 2U);
  const Seen seen = cases()->seen(fault.name);
  expect_end(seen.broken, fault.end, seen.seconds);
  EXPECT_NE(seen.report, "") << "the planned fault has not happened";
  if (fault.complete > 0) {
    EXPECT_TRUE(!seen.complete.empty() && seen.complete.back() >= fault.complete)
        << "there is no complete checkpoint of step " << fault.complete;
  }
  EXPECT_EQ(seen.again.code, 0) << seen.again.err;
  expect_same_outcome(seen.outcome, expected);
  EXPECT_THAT(seen.complete_at_last, testing::ElementsAre(6, 8));
  if (fault.complete > 0 && fault.end != End::unharmed) {
    EXPECT_THAT(seen.again.out, HasSubstr("goes on from " + fault.name + "/checkpoints/step-"));
  }
  if (HasFailure()) {
    std::cout << "the run with the fault: " << seen.broken.out << seen.broken.err << "the run after it: " << seen.again.out
              << seen.again.err;
  } else {
    ++cases()->reached;
  }
}

INSTANTIATE_TEST_SUITE_P(Each, Faults, testing::ValuesIn(all_faults()), [](const auto& each) { return each.param.name; });

}  // namespace
