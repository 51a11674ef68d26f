#include "comm/watchdog.h"
#include "core/io/json.h"

#include <gmock/gmock.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "comm/local.h"
#include "comm/watchdog_report.h"
#include "tests/support/support.h"

namespace yard {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

/// A world in which every rank is watched, and what the watchdogs wrote.
class Watched {
 public:
  explicit Watched(int ranks, double seconds, double grace = 0.4)
      : ranks_(ranks), logs_(static_cast<std::size_t>(ranks)), written_(logs_.size()) {
    for (std::size_t rank = 0; rank < logs_.size(); ++rank) {
      watchdogs_.push_back(std::make_unique<Watchdog>(logs_[rank], WatchdogOptions{.rank = static_cast<int>(rank),
                                                                                   .ranks = ranks,
                                                                                   .seconds = seconds,
                                                                                   .folder = folder_.path(),
                                                                                   .job = "job",
                                                                                   .grace = grace,
                                                                                   .last_resort = 30,
                                                                                   .abort = [this] { aborted_ += 1; },
                                                                                   .exit = [this] { exited_ += 1; },
                                                                                   .write =
                                                                                       [this, rank](const std::string& text) {
                                                                                         const std::lock_guard lock(mutex_);
                                                                                         written_[rank] += text;
                                                                                         all_ += text;
                                                                                       }}));
    }
  }
  void run(const std::function<void(Communicator&)>& body) {
    LocalWorld world{.ranks = ranks_, .nodes = {}, .logs = {}};
    for (EventLog& log : logs_) world.logs.push_back(&log);
    run_local_world(world, body);
  }
  /// For a rank that does not take part: until a watchdog ends the job.
  void until_aborted() const {
    const auto from = Clock::now();
    while (aborted_ == 0 && seconds_between(from, Clock::now()) < 20) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  std::string written(std::size_t rank) {
    const std::lock_guard lock(mutex_);
    return written_[rank];
  }
  std::string all() {
    const std::lock_guard lock(mutex_);
    return all_;
  }
  std::string last_line() {
    std::string text = all();
    if (text.empty()) return text;
    text.pop_back();
    return text.substr(text.find_last_of('\n') + 1);
  }
  int aborted() const { return aborted_; }
  int exited() const { return exited_; }
  const test::TemporaryFolder& folder() const { return folder_; }
  void stop() { watchdogs_.clear(); }

 private:
  int ranks_;
  test::TemporaryFolder folder_;
  std::vector<EventLog> logs_;
  std::mutex mutex_;
  std::vector<std::string> written_;
  std::string all_;
  std::atomic<int> aborted_ = 0, exited_ = 0;
  std::vector<std::unique_ptr<Watchdog>> watchdogs_;
};

TEST(Watchdog, NamesTheRankThatNeverEnters) {
  Watched watched(3, 0.3);
  EXPECT_THROW(watched.run([&](Communicator& comm) {
    Stream stream{Device{}};
    const Tensor x = Tensor::zeros(stream, {5});
    comm.all_reduce(stream, {"totals"}, x).wait(stream);
    if (comm.rank() == 1) {
      watched.until_aborted();
      fail("rank 1 computes for ever");
    }
    comm.all_gather(stream, {"dispatch", 3}, x, Tensor::zeros(stream, {15})).wait(stream);
  }),
               Error);
  watched.stop();
  EXPECT_EQ(watched.aborted(), 1) << "one rank ends the job";
  EXPECT_EQ(watched.exited(), 0);
  EXPECT_THAT(watched.last_line(),
              testing::MatchesRegex("watchdog: rank 0 has waited [0-9.]+ s in layer.3.dispatch \\(all_gather number 2 on "
                                    "world\\): rank 1 is missing .*; run.watchdog_seconds is 0.3"));
  EXPECT_EQ(watched.written(1), "") << "a rank that waits in no collective writes nothing";
  EXPECT_FALSE(std::filesystem::exists(watchdog_file(watched.folder().path(), 1)));
  for (const int rank : {0, 2}) {
    std::ifstream in(watchdog_file(watched.folder().path(), rank));
    const auto report = parse_json(in);
    EXPECT_EQ(report.at("pending").at("kind"), "dispatch");
    EXPECT_EQ(report.at("pending").at("layer"), 3);
    EXPECT_EQ(report.at("pending").at("sequence"), 2);
    ASSERT_EQ(report.at("records").size(), 2U);
    EXPECT_EQ(report.at("records")[0].at("label"), "totals");
    EXPECT_EQ(report.at("records")[0].at("state"), "complete");
    EXPECT_THAT(watched.written(static_cast<std::size_t>(rank)), HasSubstr("rank " + std::to_string(rank) + ": layer.3.dispatch"));
  }
}

/// Rank 0 waits for 1 in a group, 1 waits for 2 in another: it is 2 who must be named.
TEST(Watchdog, NamesTheEndOfTheChain) {
  Watched watched(3, 0.3);
  EXPECT_THROW(watched.run([&](Communicator& comm) {
    const auto left = comm.split(comm.rank() == 2 ? 1 : 0, 0, "world/left");
    const auto right = comm.split(comm.rank() == 0 ? 0 : 1, 0, "world/right");
    if (comm.rank() == 0) left->barrier({"combine", 1});
    if (comm.rank() == 1) right->barrier({"dispatch", 2});
    watched.until_aborted();
    fail("rank 2 computes for ever");
  }),
               Error);
  watched.stop();
  EXPECT_EQ(watched.aborted(), 1);
  EXPECT_THAT(watched.last_line(), HasSubstr("rank 1 has waited"));
  EXPECT_THAT(watched.last_line(), HasSubstr("layer.2.dispatch (barrier number 1 on world/right): rank 2 is missing"));
}

TEST(Watchdog, IsSilentWhenCollectivesEndInTime) {
  Watched watched(2, 1.5);
  watched.run([&](Communicator& comm) {
    for (int i = 0; i < 4; ++i) {
      if (comm.rank() == i % 2) std::this_thread::sleep_for(std::chrono::milliseconds(500));  // together longer than the limit
      comm.barrier({"meet"});
    }
  });
  watched.stop();
  EXPECT_EQ(watched.all(), "");
  EXPECT_EQ(watched.aborted(), 0);
  EXPECT_TRUE(std::filesystem::is_empty(watched.folder().path()));
}

void wait_until(const std::function<bool()>& happened) {
  const auto from = Clock::now();
  while (!happened() && seconds_between(from, Clock::now()) < 20) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_TRUE(happened());
}

TEST(Watchdog, WithdrawsWhenTheCollectiveEndsAfterAll) {
  Watched watched(2, 1.0, 1.0);
  watched.run([&](Communicator& comm) {
    // Past the limit, but within the grace.
    if (comm.rank() == 1) wait_until([&] { return !watched.written(0).empty(); });
    comm.barrier({"meet"});
    // A later wait below the limit must not stumble over what the first has left.
    wait_until([&] { return std::filesystem::is_empty(watched.folder().path()); });
    if (comm.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(700));
    comm.barrier({"meet"});
  });
  watched.stop();
  EXPECT_THAT(watched.all(), HasSubstr("rank 0: meet"));
  EXPECT_THAT(watched.all(), Not(HasSubstr("has waited")));
  EXPECT_EQ(watched.aborted(), 0);
  EXPECT_TRUE(std::filesystem::is_empty(watched.folder().path()));
}

TEST(Watchdog, ZeroSecondsIsOff) {
  Watched watched(2, 0);
  watched.run([&](Communicator& comm) {
    if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(300));
    comm.barrier({"meet"});
  });
  EXPECT_EQ(watched.all(), "");
}

TEST(Watchdog, FollowsTheRunDirectoryAndExitsWhenAbortDoesNot) {
  const test::TemporaryFolder early;
  const test::TemporaryFolder run;
  std::ofstream(watchdog_file(run.path(), 0)) << "{\"job\": \"an earlier one\"}";
  EventLog log;
  std::atomic<int> exited = 0;
  std::string text;
  Watchdog watchdog(log, {.rank = 0,
                          .ranks = 1,
                          .seconds = 0.1,
                          .folder = early.path(),
                          .job = "job",
                          .grace = 0.05,
                          .last_resort = 0.05,
                          .abort = [] {},
                          .exit = [&] { ++exited; },
                          .write = [&](const std::string& line) { text += line; }});
  watchdog.set_folder(run / "deeper");
  watchdog.set_folder(run.path());
  EXPECT_FALSE(std::filesystem::exists(watchdog_file(run.path(), 0))) << "an earlier run's report is removed";
  CollectiveRecord record;
  record.group = log.open("world", std::vector<int>{0});
  record.op = "all_to_all";
  record.label = {"combine", 0};
  log.wait(log.post(record));
  const auto from = Clock::now();
  while (exited == 0 && seconds_between(from, Clock::now()) < 20) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(exited, 1);
  EXPECT_TRUE(std::filesystem::exists(watchdog_file(run.path(), 0)));
  EXPECT_TRUE(std::filesystem::is_empty(early.path()));
  EXPECT_THAT(text, HasSubstr("layer.0.combine (all_to_all number 1 on world): no rank is missing, so the transfer itself hangs"));
}

/// An overlapped collective that no rank waits for can hang as well: on a GPU the host does not block on it.
TEST(Watchdog, CountsFromPostingToCompletion) {
  Watched watched(2, 0.3);
  EXPECT_THROW(watched.run([&](Communicator& comm) {
    Stream stream{Device{}};
    const Tensor x = Tensor::zeros(stream, {5});
    Work work;
    if (comm.rank() == 0) work = comm.all_reduce(stream, {"gradients", 4}, x);
    watched.until_aborted();
    fail("neither rank waits");
  }),
               Error);
  watched.stop();
  EXPECT_EQ(watched.aborted(), 1);
  EXPECT_THAT(watched.written(0), HasSubstr("layer.4.gradients (all_reduce number 1 on world), 5 rows, 20 bytes, posted 0."));
  EXPECT_THAT(watched.written(0), HasSubstr("not waited for yet"));
  EXPECT_THAT(watched.last_line(), HasSubstr("for the completion of layer.4.gradients (all_reduce number 1 on world): rank 1 is missing "
                                             "(it waits in no collective)"));
}

/// A collective that hangs is found although its rank goes through other collectives meanwhile.
TEST(Watchdog, CountsEachCollectiveByItself) {
  Watched watched(2, 0.5);
  EXPECT_THROW(watched.run([&](Communicator& comm) {
    Stream stream{Device{}};
    const auto pair = comm.split(0, comm.rank(), "pair");
    const Tensor x = Tensor::zeros(stream, {5});
    Work never;
    if (comm.rank() == 0) never = comm.all_reduce(stream, {"gradients", 4}, x);
    const auto from = Clock::now();
    while (watched.aborted() == 0 && seconds_between(from, Clock::now()) < 20) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      pair->barrier({"barrier"});
    }
    fail("rank 1 never enters");
  }),
               Error);
  watched.stop();
  EXPECT_GE(watched.aborted(), 1);
  EXPECT_THAT(watched.last_line(), HasSubstr("for the completion of layer.4.gradients (all_reduce number 2 on world): rank 1 is missing"));
}

/// A rank that computes forever has posted a collective that all ranks have entered: it is the missing one, not the transfer.
TEST(Watchdog, NamesARankThatHasReportedButWaitsInNoCollective) {
  Watched watched(2, 0.3);
  EXPECT_THROW(watched.run([&](Communicator& comm) {
    Stream stream{Device{}};
    const auto pair = comm.split(0, comm.rank(), "pair");
    const Tensor x = Tensor::zeros(stream, {5});
    Work never;
    if (comm.rank() == 1) {
      never = pair->all_reduce(stream, {"gradients"}, x);
      watched.until_aborted();
      fail("rank 1 computes for ever");
    }
    comm.barrier({"barrier"});
  }),
               Error);
  watched.stop();
  EXPECT_THAT(watched.last_line(), HasSubstr("in barrier (barrier number 2 on world): rank 1 is missing (it waits in no collective)"));
}

nlohmann::json report_of(int rank, const std::string& label, std::uint64_t sequence, std::uint64_t world_sequence) {
  const nlohmann::json members = {0, 1, 2, 3};
  return {{"rank", rank},
          {"pending",
           {{"communicator", "world"},
            {"members", members},
            {"sequence", sequence},
            {"op", "barrier"},
            {"label", label},
            {"state", "waiting"},
            {"seconds", 4.25}}},
          {"communicators", {{{"name", "world"}, {"members", members}, {"sequence", world_sequence}}}}};
}

TEST(WatchdogSentence, CountsTheMissing) {
  const std::map<int, nlohmann::json> two = {{0, report_of(0, "save", 9, 9)}, {3, report_of(3, "save", 9, 9)}};
  EXPECT_THAT(watchdog_sentence(two, 4),
              HasSubstr("rank 0 has waited 4.2 s in save (barrier number 9 on world): ranks 1 and 2 are missing"));
  // All have reported, but rank 2 is behind: it waits somewhere else.
  std::map<int, nlohmann::json> behind;
  for (int rank = 0; rank < 4; ++rank) behind[rank] = report_of(rank, "save", 9, 9);
  behind[2] = report_of(2, "load", 8, 8);
  EXPECT_THAT(watchdog_sentence(behind, 4), HasSubstr("rank 2 is missing (rank 2 waits in load (barrier number 8 on world))"));
  EXPECT_THAT(watchdog_sentence(behind, 4), EndsWith("run.watchdog_seconds is 4"));
  // Rank 1 is behind because it waits for rank 2 in a group: that is the cause, although world lacks rank 2 as well.
  std::map<int, nlohmann::json> chain = {
      {0, report_of(0, "save", 9, 9)}, {1, report_of(1, "dispatch", 4, 8)}, {3, report_of(3, "save", 9, 9)}};
  chain[1]["pending"]["communicator"] = "world/expert";
  chain[1]["pending"]["members"] = {1, 2};
  chain[1]["communicators"].push_back({{"name", "world/expert"}, {"members", {1, 2}}, {"sequence", 4}});
  EXPECT_THAT(
      watchdog_sentence(chain, 4),
      HasSubstr("rank 1 has waited 4.2 s in dispatch (barrier number 4 on world/expert): rank 2 is missing (it waits in no collective)"));
}

}  // namespace
}  // namespace yard
