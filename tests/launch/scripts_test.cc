#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
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

/// launch/slurm.sbatch in a folder of its own, with an mpirun that does as it is told and a scontrol that writes down what it was asked.
class SlurmJob : public ::testing::Test {
 protected:
  SlurmJob() { program("scontrol", "echo \"$@\" >> asked"); }
  void program(const std::string& name, const std::string& body) const {
    const std::string path = folder_ / "bin/" + name;
    ASSERT_EQ(run_command("mkdir -p '" + (folder_ / "bin") + "'").code, 0);
    std::ofstream(path) << "#!/bin/bash\n" << body << "\n";
    ASSERT_EQ(run_command("chmod +x '" + path + "'").code, 0);
  }
  std::string read(const std::string& name) const {
    std::ifstream file(folder_ / name);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  /// The job; `signals` are sent to its script, one after the other, when mpirun runs.
  test::CommandResult run(const std::string& signals = "") const {
    const std::string start = "cd '" + folder_.path() + "' && export PATH=\"$PWD/bin:$PATH\" SLURM_JOB_NAME=name SLURM_JOB_ID=77 " +
                              "SLURM_CPUS_PER_TASK=3; bash " + script("launch/slurm.sbatch") + "& job=$!; ";
    const std::string send =
        "for i in $(seq 200); do [ -e running ] && break; sleep 0.05; done; for s in " + signals + "; do kill -$s $job; sleep 0.2; done; ";
    return run_command(start + (signals.empty() ? "" : send) + "wait $job");
  }
  test::TemporaryFolder folder_;
};

/// What the ranks do: go on until SIGUSR1 comes, then need a moment.
constexpr const char* kUntilSignal =
    "came=0; trap 'came=1' USR1; touch running; for i in $(seq 400); do [ $came = 1 ] && break; sleep 0.05; done; "
    "[ $came = 1 ] || exit 9; sleep 0.5; echo saved > saved; exit ";

TEST_F(SlurmJob, ThatIsSignalledSavesAndGoesBackToTheQueue) {
  program("mpirun", kUntilSignal + std::string("0"));
  for (const char* signals : {"USR1", "TERM", "USR1 USR1 TERM"}) {
    ASSERT_EQ(run_command("rm -f '" + (folder_ / "asked") + "' '" + (folder_ / "saved") + "' '" + (folder_ / "running") + "'").code, 0);
    const auto result = run(signals);
    EXPECT_EQ(result.code, 0) << signals << ": " << result.err;
    EXPECT_EQ(read("saved"), "saved\n") << signals << ": the script waits for the end of the run";
    EXPECT_EQ(read("asked"), "requeue 77\n") << signals;
    EXPECT_EQ(result.err, "") << signals;
  }
}

TEST_F(SlurmJob, ThatIsFinishedOrFailsIsNotQueuedAgain) {
  program("mpirun", "echo \"$@\" > words; exit 0");
  EXPECT_EQ(run().code, 0);
  EXPECT_EQ(read("asked"), "");
  EXPECT_THAT(read("words"), HasSubstr("slot:PE=3"));
  EXPECT_THAT(read("words"), HasSubstr("--run-dir runs/name-77 --resume auto"));
  program("mpirun", "exit 3");
  EXPECT_EQ(run().code, 3);
  program("mpirun", kUntilSignal + std::string("1"));
  EXPECT_EQ(run("USR1").code, 1);
  EXPECT_EQ(read("asked"), "");
}

}  // namespace
}  // namespace yard
