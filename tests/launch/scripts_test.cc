#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/support/support.h"

namespace yard {
namespace {

using test::run_command;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string script(const std::string& name) { return std::string(YARD_SOURCE) + "/" + name + " "; }

/// In a shell that has read launch/common.sh the way that the scripts do.
test::CommandResult with_common(const std::string& body) {
  return run_command("bash -c 'set -euo pipefail; . " + script("launch/common.sh") + "; " + body + "'");
}

struct Misuse {
  const char* script;
  const char* arguments;
  const char* words;
};
class ScriptMisuse : public ::testing::TestWithParam<Misuse> {};

TEST_P(ScriptMisuse, IsOneSentenceAndCodeTwo) {
  const auto result = run_command(script(GetParam().script) + GetParam().arguments);
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr(GetParam().words));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

INSTANTIATE_TEST_SUITE_P(Each, ScriptMisuse,
                         ::testing::Values(Misuse{"launch/quickstart", "--minuets 3", "there is no option --minuets"},
                                           Misuse{"launch/quickstart", "--minutes", "--minutes needs a value"},
                                           Misuse{"launch/quickstart", "--minutes=0", "no positive number of minutes"},
                                           Misuse{"launch/quickstart", "--minutes five", "no positive number of minutes"},
                                           Misuse{"launch/quickstart", "--ranks 3", "does not divide the 8 experts"},
                                           Misuse{"launch/quickstart", "--ranks 16", "does not divide the 8 experts"},
                                           Misuse{"tests/run", "--fast", "there is no option --fast"},
                                           Misuse{"tests/run", "--only everything", "--only takes format"}));

TEST(Scripts, HelpIsPrintedWithoutDoingAnything) {
  for (const char* name : {"launch/quickstart", "tests/run"}) {
    const auto result = run_command(script(name) + "--help");
    EXPECT_EQ(result.code, 0);
    EXPECT_THAT(result.out, StartsWith("usage: " + std::string(name)));
  }
}

TEST(Scripts, MissingPackagesAreNamedAndOnlyThose) {
  if (run_command("command -v dpkg-query").code != 0) GTEST_SKIP() << "no Debian";
  EXPECT_EQ(with_common("missing_packages coreutils dpkg no-such-package bash").out, "no-such-package\n");
  EXPECT_EQ(with_common("missing_packages coreutils dpkg").out, "");
}

TEST(Scripts, WhatAnOuterJobLeftBehindIsRemovedAndTheRestStays) {
  const auto result = run_command(
      "env OMPI_COMM_WORLD_RANK=3 PMIX_RANK=1 SLURM_JOB_ID=7 PMI_SIZE=4 OMPI_MCA_btl=tcp KEPT=1 bash -c 'set -euo pipefail; . " +
      script("launch/common.sh") + "; clean_mpi_environment; env'");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("KEPT=1"));
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_JOB_ID", "PMI_SIZE", "OMPI_MCA_btl"}) {
    EXPECT_THAT(result.out, ::testing::Not(HasSubstr(name)));
  }
}

TEST(Scripts, NumbersAreReadFromJsonAndAMissingOneStops) {
  const test::TemporaryFolder folder;
  const std::string file = folder / "a.json";
  ASSERT_EQ(run_command("printf \"{\\\"loss\\\": 3.25e0,\\n\\\"bits_per_byte\\\":-1.5}\" > " + file).code, 0);
  EXPECT_EQ(with_common("json_number " + file + " loss").out, "3.25e0");
  EXPECT_EQ(with_common("json_number " + file + " bits_per_byte").out, "-1.5");
  const auto missing = with_common("x=$(json_number " + file + " tokens); echo reached");
  EXPECT_EQ(missing.code, 1);
  EXPECT_EQ(missing.out, "");
  EXPECT_THAT(missing.err, HasSubstr("no number named tokens"));
}

TEST(Scripts, MoreRanksThanCoresStartAndAreToldWhatTheScreenIs) {
  const auto result = with_common("clean_mpi_environment; mpi 3 printenv SWITCHYARD_TERMINAL OMPI_COMM_WORLD_SIZE");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '0'), 3) << result.out;
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '3'), 3) << result.out;
}

}  // namespace
}  // namespace yard
