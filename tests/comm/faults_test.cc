// Jobs that go wrong: the tests start this program again under mpirun with one of the DISABLED tests, which is the job.
#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "comm/agree.h"
#include "comm/mpi.h"
#include "comm/watchdog.h"
#include "tests/support/support.h"

namespace yard {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

/// What a `main` does around its work.
void run_job(double watchdog_seconds, const std::function<void(Communicator&, Stream&)>& work) {
  int argc = 0;
  char** argv = nullptr;
  EventLog log;
  int code = 0;
  {
    MpiRuntime runtime(argc, argv, log);
    auto world = runtime.world();
    const Watchdog watchdog(log, {.rank = world->rank(),
                                  .ranks = world->size(),
                                  .seconds = watchdog_seconds,
                                  .folder = {},
                                  .job = {},
                                  .abort = [&] { runtime.abort(1); },
                                  .exit = {},
                                  .write = {}});
    Stream stream{Device{}};
    try {
      work(*world, stream);
    } catch (const AgreedError& error) {
      if (error.reports()) std::fprintf(stderr, "%s\n", error.what());
      code = error.exit_code();
    } catch (const std::exception& error) {
      report_and_abort(runtime, world->rank(), error);
    }
    world.reset();
  }
  std::fflush(nullptr);
  _exit(code);
}

TEST(FaultyJob, DISABLED_OneRankThrows) {
  run_job(0, [](Communicator& world, Stream& stream) {
    const Tensor x = Tensor::zeros(stream, {4});
    Work work = world.all_reduce(stream, {"totals"}, x);
    check(world.rank() != 1, "the disk of rank 1\nis full");
    work.wait(stream);
    world.barrier({"meet"});
  });
}

TEST(FaultyJob, DISABLED_OneRankIsGivenBadInput) {
  run_job(0, [](Communicator& world, Stream&) {
    check_input(world.rank() != 2, "data.train names no file");
    world.barrier({"meet"});
  });
}

TEST(FaultyJob, DISABLED_AllAgreeToLeave) {
  run_job(0, [](Communicator& world, Stream&) {
    agree(world, [&] { check_input(world.rank() == 0, "rank ", world.rank(), " cannot read the token file"); });
  });
}

TEST(FaultyJob, DISABLED_AllAgreeWithWorksUnderWay) {
  run_job(0, [](Communicator& world, Stream& stream) {
    const Tensor x = Tensor::zeros(stream, {1 << 16});
    Work work = world.all_reduce(stream, {"totals"}, x);
    throw AgreedError("the loss is not a number at step 3", 1, world.rank() == 0);
  });
}

TEST(FaultyJob, DISABLED_OneRankIsStopped) {
  run_job(1, [](Communicator& world, Stream& stream) {
    const Tensor x = Tensor::zeros(stream, {4});
    world.all_reduce(stream, {"totals"}, x).wait(stream);
    if (world.rank() == 1) raise(SIGSTOP);
    world.all_reduce(stream, {"gradients", 2}, x).wait(stream);
  });
}

TEST(FaultyJob, DISABLED_OneRankComputesForEver) {
  run_job(1, [](Communicator& world, Stream& stream) {
    const auto group = world.split(world.rank() == 0 ? 0 : 1, 0, "world/expert");
    if (world.rank() == 2) std::this_thread::sleep_for(std::chrono::seconds(60));
    const Tensor x = Tensor::zeros(stream, {group->size()});
    const std::vector<Index> ones(static_cast<std::size_t>(group->size()), 1);
    group->all_to_all(stream, {"dispatch", 5}, x, ones, x.clone(stream), ones).wait(stream);
    world.barrier({"meet"});
  });
}

TEST(FaultyJob, DISABLED_OneRankIsKilled) {
  run_job(30, [](Communicator& world, Stream&) {
    if (world.rank() == 1) raise(SIGKILL);
    world.barrier({"meet"});
  });
}

TEST(FaultyJob, DISABLED_OneRankExpectsFewerRows) {
  run_job(0, [](Communicator& world, Stream& stream) {
    std::vector<Index> counts(static_cast<std::size_t>(world.size()), 0);
    const int other = world.rank() == 0 ? 1 : 0;
    if (world.rank() < 2) counts[static_cast<std::size_t>(other)] = world.rank() == 0 ? 3 : 2;
    const Tensor x = Tensor::zeros(stream, {world.rank() == 0 ? 3 : world.rank() == 1 ? 2 : 0, 8});
    world.all_to_all(stream, {"dispatch", 0}, x, counts, x.clone(stream), counts).wait(stream);
    world.barrier({"meet"});
  });
}

struct Ended {
  int code = 0;
  double seconds = 0;
  std::string out, err, last_line;
};

Ended end_of(const std::string& program, const std::string& filter, int ranks) {
  const test::TemporaryFolder temporary;  // of the watchdog's files too
  const std::string command = "TMPDIR=" + temporary.path() + " " + std::string(YARD_MPIRUN) +
                              " -q --allow-run-as-root --oversubscribe --bind-to none -np " + std::to_string(ranks) + " " + program +
                              " --gtest_also_run_disabled_tests --gtest_filter=" + filter;
  const auto from = Clock::now();
  const test::CommandResult result = test::run_command(command);
  Ended ended{result.code, seconds_between(from, Clock::now()), result.out, result.err, result.err};
  while (!ended.last_line.empty() && ended.last_line.back() == '\n') ended.last_line.pop_back();
  ended.last_line = ended.last_line.substr(ended.last_line.find_last_of('\n') + 1);
  return ended;
}

std::string this_program() { return std::filesystem::read_symlink("/proc/self/exe").string(); }
Ended end_of(const std::string& job) { return end_of(this_program(), "FaultyJob.DISABLED_" + job, 3); }

TEST(Faults, ARankThatThrowsEndsTheJobWithItsSentenceLast) {
  const Ended ended = end_of("OneRankThrows");
  EXPECT_EQ(ended.code, 1);
  EXPECT_EQ(ended.last_line, "rank 1: the disk of rank 1 is full") << ended.err;
  EXPECT_LT(ended.seconds, 10);
}

TEST(Faults, BadInputOfOneRankEndsWithTwo) {
  const Ended ended = end_of("OneRankIsGivenBadInput");
  EXPECT_EQ(ended.code, 2);
  EXPECT_EQ(ended.last_line, "rank 2: data.train names no file") << ended.err;
  EXPECT_LT(ended.seconds, 10);
}

TEST(Faults, AnAgreedErrorIsSaidOnce) {
  const Ended ended = end_of("AllAgreeToLeave");
  EXPECT_EQ(ended.code, 2);
  EXPECT_LT(ended.seconds, 10);
  EXPECT_EQ(ended.err, "rank 1 cannot read the token file\n");
  const Ended pending = end_of("AllAgreeWithWorksUnderWay");
  EXPECT_EQ(pending.code, 1);
  EXPECT_EQ(pending.err, "the loss is not a number at step 3\n");
  EXPECT_LT(pending.seconds, 10);
}

TEST(Faults, AStoppedRankIsNamed) {
  const Ended ended = end_of("OneRankIsStopped");
  EXPECT_EQ(ended.code, 1);
  EXPECT_THAT(ended.last_line,
              MatchesRegex("watchdog: rank 0 has waited [0-9.]+ s in layer.2.gradients \\(all_reduce number 2 on world\\): "
                           "rank 1 is missing .*"))
      << ended.err;
  EXPECT_THAT(ended.err, HasSubstr("rank 2: layer.2.gradients"));
  EXPECT_LT(ended.seconds, 15);
}

TEST(Faults, ARankThatComputesForEverIsNamedWithTheCollectiveThatLacksIt) {
  const Ended ended = end_of("OneRankComputesForEver");
  EXPECT_EQ(ended.code, 1);
  EXPECT_THAT(ended.last_line, HasSubstr("rank 1 has waited"));
  EXPECT_THAT(ended.last_line, HasSubstr("layer.5.dispatch (all_to_all number 1 on world/expert): rank 2 is missing")) << ended.err;
  EXPECT_LT(ended.seconds, 15);
}

TEST(Faults, AKilledRankEndsTheJob) {
  const Ended ended = end_of("OneRankIsKilled");
  EXPECT_EQ(ended.code, 128 + SIGKILL) << ended.err;
  EXPECT_LT(ended.seconds, 10);
}

TEST(Faults, MpiSaysWhatIsWrong) {
  const Ended ended = end_of("OneRankExpectsFewerRows");
  EXPECT_EQ(ended.code, 1);
  EXPECT_THAT(ended.last_line, HasSubstr("all_to_all on world failed in MPI: MPI_ERR_TRUNCATE")) << ended.err;
  EXPECT_LT(ended.seconds, 10);
}

/// The printers of the tests themselves: a failure of rank 2 alone must be seen, and must fail the program.
TEST(Faults, AFailureOnOneRankOfATestIsSeen) {
  const auto program = std::filesystem::path(this_program()).parent_path() / "test.comm.communicator_mpi";
  const Ended ended = end_of(program.string(), "MpiHarness.DISABLED_FailsOnTheLastRank", 3);
  EXPECT_EQ(ended.code, 1);
  EXPECT_THAT(ended.err, HasSubstr("rank 2: MpiHarness.DISABLED_FailsOnTheLastRank"));
  EXPECT_THAT(ended.err, HasSubstr("only the last rank fails"));
  EXPECT_THAT(ended.err, Not(HasSubstr("rank 1:")));
}

}  // namespace
}  // namespace yard
