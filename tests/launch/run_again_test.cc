#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include <map>

#include "core/io/json.h"
#include "tests/launch/program.h"

using namespace yard;
using test::Program;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
namespace fs = std::filesystem;

namespace {

/// Every file below a folder with its bytes and the time of its last change.
std::map<std::string, std::string> files_of(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    files[entry.path().string()] =
        std::to_string(entry.last_write_time().time_since_epoch().count()) + " " + std::string(std::istreambuf_iterator<char>(file), {});
  }
  return files;
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    names.push_back(name.starts_with("events.out.tfevents.") ? "events.out.tfevents." : name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

TEST(RunAgain, AFinishedRunIsLeftAsItIs) {
  const Program program;
  for (const int ranks : {0, 2}) {
    const std::string run = ranks == 0 ? "alone" : "two";
    ASSERT_EQ(program.run("train --config c --run-dir " + run, ranks).code, 0);
    const auto before = files_of(program / run);
    const auto again = program.run("train --config c --run-dir " + run, ranks);
    EXPECT_EQ(again.code, 0) << again.err;
    EXPECT_THAT(again.out, HasSubstr("nothing to do: " + run + "/checkpoints/step-00000004 has 4 steps done and run.steps is 4"));
    EXPECT_EQ(files_of(program / run), before);
  }
}

TEST(RunAgain, AMistypedRouterLeavesTheEarlierRunWhereItIs) {
  const Program program;
  ASSERT_EQ(program.run("train --config c --run-dir r --set run.steps=2").code, 0);
  const auto before = files_of(program / "r");
  for (const int ranks : {0, 2}) {
    const auto again = program.run("train --config c --run-dir r --resume never --set model.router.kind=softmax_topk", ranks);
    test::expect_sentence(again, 2, {"model.router.kind is 'softmax_topk'", "did you mean 'softmax_top_k'?"});
    EXPECT_EQ(files_of(program / "r"), before);
  }
}

TEST(RunAgain, ResumeNeverStartsAfreshAndLosesNothing) {
  const Program program;
  ASSERT_EQ(program.run("train --config c --run-dir r --set run.steps=6").code, 0);
  const auto metrics = program.read("r/metrics.jsonl");
  const auto again = program.run("train --config c --run-dir r --set run.steps=2 --set run.seed=8 --resume never");
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("the earlier run in r is now in r/earlier-1"));
  const auto lines = program.read("r/metrics.jsonl");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 2);
  EXPECT_THAT(names_in(program / "r"), ElementsAre("checkpoints", "config.textproto", "data_scan.json", "earlier-1", "events.out.tfevents.",
                                                   "lock", "log.txt", "metrics.jsonl"));
  EXPECT_THAT(names_in(program / "r/checkpoints"), ElementsAre("latest", "step-00000002"));
  EXPECT_EQ(program.read("r/earlier-1/metrics.jsonl"), metrics);
  EXPECT_THAT(names_in(program / "r/earlier-1/checkpoints"), ElementsAre("latest", "step-00000002", "step-00000004", "step-00000006"));
  EXPECT_THAT(program.read("r/config.textproto"), HasSubstr("seed: 8"));
}

TEST(RunAgain, ResumeNeverLeavesTheEarlierRunWhereItIsUntilAllIsChecked) {
  const Program program;
  ASSERT_EQ(program.run("train --config c --run-dir r --set run.steps=2").code, 0);
  ASSERT_EQ(program.run("train --config c --run-dir other --set run.steps=2 --set model.hidden=64").code, 0);
  const auto before = files_of(program / "r");
  const std::string damaged = program / "damaged";
  fs::copy(program / "other/checkpoints/step-00000002", damaged);
  for (const auto& entry : fs::directory_iterator(damaged)) {
    if (entry.path().extension() == ".safetensors") fs::resize_file(entry.path(), 3000);
  }
  for (const std::string& setting :
       {std::string("init.checkpoint=other --set model.hidden=32"), "init.checkpoint=" + damaged, std::string("data.train=nowhere"),
        std::string("data.tokenizer=nowhere"), std::string("data.length=20000"), std::string("data.validation=nowhere")}) {
    for (const int ranks : {0, 2}) {
      const auto again = program.run("train --config c --run-dir r --resume never --set " + setting, ranks);
      EXPECT_EQ(again.code, 2) << setting << again.err;
      EXPECT_EQ(files_of(program / "r"), before) << setting;
    }
  }
}

TEST(RunAgain, ASecondJobIsRefusedAndAKilledOneIsResumed) {
  const Program program;
  for (const int ranks : {0, 2}) {
    SCOPED_TRACE(ranks);
    const std::string run = ranks == 0 ? "alone" : "two";
    const std::string words = "train --config c --run-dir " + run + " --set checkpoint.every=1 --set run.steps=";
    const auto first = test::run_command("cd '" + (program / "") + "' && { setsid sh -c \"" + program.line(words + "1000000", ranks) +
                                         "\" > first 2>&1 & } && for i in $(seq 400); do test -e " + run +
                                         "/checkpoints/latest && break; sleep 0.1; done");
    ASSERT_TRUE(program.has(run + "/checkpoints/latest")) << program.read("first");
    const auto second = program.run(words + "4 --resume never", ranks);
    test::expect_sentence(second, 2, {run + " is in use by process", " on host ", " since ", "choose another --run-dir"});
    EXPECT_FALSE(program.has(run + "/earlier-1"));
    const std::string holder = program.read(run + "/lock.json");
    const auto process = parse_json(holder)["process"].get<pid_t>();
    ASSERT_GT(process, 1);
    EXPECT_EQ(::kill(process, SIGKILL), 0);
    for (int i = 0; i < 100 && fs::exists("/proc/" + std::to_string(process)); ++i) ::usleep(100000);
    ::sleep(ranks > 0 ? 3 : 0);  // until mpirun has ended the other rank
    const auto again = program.run(words + "4 --resume never", ranks);
    EXPECT_EQ(again.code, 0) << again.err;
    EXPECT_TRUE(program.has(run + "/earlier-1"));
  }
}

TEST(RunAgain, GoingBackToAnEarlierCheckpointKeepsWhatIsWrittenThen) {
  const Program program;
  const std::string start = "train --config c --run-dir r --set checkpoint.every=1 --set checkpoint.keep=2 --set run.steps=";
  ASSERT_EQ(program.run(start + "6 --set checkpoint.keep_every=2").code, 0);
  const auto again = program.run(start + "4 --resume r/checkpoints/step-00000002");
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(program.read("r/checkpoints/latest"), "step-00000004\n");
  EXPECT_TRUE(program.has("r/checkpoints/step-00000003/state.json"));
  EXPECT_TRUE(program.has("r/checkpoints/step-00000004/state.json"));
  const auto lines = program.read("r/metrics.jsonl");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 4);
}

TEST(RunAgain, LinesArePlainWhereMpirunDoesNotWriteToATerminal) {
  const Program program;
  const auto plain = program.run("train --config c --run-dir r", 2);
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_THAT(plain.out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(plain.out, HasSubstr("step 4/4"));
  EXPECT_THAT(plain.out, Not(HasSubstr("\r")));
}

TEST(RunAgain, AStatusLineIsShownWhereMpirunWritesToATerminal) {
  if (const std::string reason = test::why_no_pseudo_terminal(); !reason.empty()) GTEST_SKIP() << reason;
  const Program program;
  const auto line = program.line("train --config c --run-dir t", 2);
  const auto shown = test::run_command("script -qec \"" + line + "\" /dev/null");
  EXPECT_EQ(shown.code, 0) << shown.err;
  EXPECT_THAT(shown.out, HasSubstr("\r\x1b[Kstep"));
}

}  // namespace
