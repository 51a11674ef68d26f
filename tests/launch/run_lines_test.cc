#include <gmock/gmock.h>

#include "tests/launch/program.h"

namespace yard {
namespace {

using namespace test;
using testing::HasSubstr;
using testing::Not;

/// What a run says, and how often.
TEST(RunLines, TellHowTheRunIsSpread) {
  const Program program;
  EXPECT_THAT(program.run("train --config c --run-dir one").out, testing::StartsWith("1 rank: expert 1 x data 1, f32, "));
  EXPECT_THAT(program.run("train --config c --run-dir two --set mesh.expert=2", 2).out,
              testing::StartsWith("2 ranks: expert 2 x data 1, f32, "));
}

TEST(RunLines, TellWhenTrainingSeesLaterTokens) {
  const Program program;
  const std::string words = "train --config c --set model.router.capacity_factor=0.5";
  EXPECT_THAT(program.run(words + " --run-dir position").out, Not(HasSubstr("training sees later tokens")));
  const auto by_weight = program.run(words + " --set model.router.drop=weight --run-dir weight --set mesh.expert=2", 2);
  EXPECT_EQ(by_weight.code, 0) << by_weight.err;
  const std::size_t first = by_weight.out.find("training sees later tokens");
  ASSERT_NE(first, std::string::npos) << by_weight.out;
  EXPECT_EQ(by_weight.out.find("training sees later tokens", first + 1), std::string::npos) << "said once, not once a rank";
}

/// log.txt tells of each checkpoint once, however its files are written.
TEST(RunLines, TellOfEachCheckpointOnce) {
  const Program program;
  for (const std::string async : {"true", "false"}) {
    ASSERT_EQ(program.run("train --config c --run-dir " + async + " --set checkpoint.async=" + async).code, 0);
    const std::string log = program.read(async + "/log.txt");
    for (const std::string name : {"step-00000002", "step-00000004"}) {
      const std::string line = "checkpoint " + async + "/checkpoints/" + name;
      const std::size_t first = log.find(line);
      ASSERT_NE(first, std::string::npos) << log;
      EXPECT_EQ(log.find(line, first + 1), std::string::npos) << log;
    }
  }
}

}  // namespace
}  // namespace yard
