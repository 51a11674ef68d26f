#include "comm/event_log.h"

#include <thread>

#include "comm/local.h"
#include "tests/support/support.h"

namespace yard {
namespace {

const std::vector<int> kMembers = {0, 1};

std::uint64_t post(EventLog& log, int group, Index rows = 0) {
  CollectiveRecord record;
  record.group = group;
  record.op = "all_to_all";
  record.label = {"dispatch", 3};
  record.rows = rows;
  record.bytes_within = 8 * rows;
  return log.post(std::move(record));
}
/// From posting to a final record.
void finish(EventLog& log, std::uint64_t id) {
  log.complete(id, Clock::now());
  log.close(id, 0.25);
}

TEST(EventLog, KeepsTheLastRecordsInOrder) {
  EventLog log(4);
  const int group = log.open("world", kMembers);
  for (Index i = 0; i < 10; ++i) finish(log, post(log, group, i));
  const auto records = log.records();
  ASSERT_EQ(records.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(records[i].rows, static_cast<Index>(6 + i));
    EXPECT_EQ(records[i].sequence, 7 + i);
    EXPECT_EQ(records[i].bytes(), 8 * records[i].rows);
    EXPECT_EQ(records[i].label.text(), "layer.3.dispatch");
    EXPECT_EQ(records[i].state(), CollectiveState::complete);
    EXPECT_LE(records[i].posted, *records[i].completed);
    EXPECT_EQ(records[i].exposed_seconds(), 0.25);
  }
}

TEST(EventLog, KeepsIncompleteRecordsWhateverTheirAge) {
  EventLog log(2);
  const int group = log.open("world", kMembers);
  const auto oldest = post(log, group, 100);
  const auto older = post(log, group, 101);
  for (Index i = 0; i < 5; ++i) finish(log, post(log, group, i));
  ASSERT_EQ(log.records().size(), 4U);
  EXPECT_EQ(log.records()[0].rows, 100);
  EXPECT_EQ(log.records()[1].rows, 101);
  EXPECT_EQ(log.incomplete().front().rows, 100);
  finish(log, oldest);
  EXPECT_EQ(log.incomplete().front().rows, 101);
  log.abandon(older);
  EXPECT_EQ(log.records().size(), 2U);
  EXPECT_TRUE(log.incomplete().empty());
}

TEST(EventLog, CountsEveryGroupByItself) {
  EventLog log;
  const int world = log.open("world", kMembers);
  const int expert = log.open("expert", std::vector<int>{1});
  const int again = log.open("expert", kMembers);
  post(log, world);
  post(log, world);
  post(log, expert);
  const auto groups = log.groups();
  EXPECT_EQ(groups[static_cast<std::size_t>(world)].sequence, 2U);
  EXPECT_EQ(groups[static_cast<std::size_t>(expert)].sequence, 1U);
  EXPECT_EQ(groups[static_cast<std::size_t>(expert)].members, std::vector<int>{1});
  EXPECT_EQ(groups[static_cast<std::size_t>(again)].name, "expert#2");
  EXPECT_EQ(groups[static_cast<std::size_t>(again)].sequence, 0U);
}

/// A collective is incomplete from posting to completion, whether or not the rank waits for it, and after the wait has returned.
TEST(EventLog, ListsIncompleteCollectives) {
  EventLog log;
  const int group = log.open("world", kMembers);
  const auto first = post(log, group, 1);
  const auto second = post(log, group, 2);
  const auto third = post(log, group, 3);
  log.wait(third);
  log.close(third, 0.1);  // as on a GPU: the wait has returned, but the operation is not complete
  const auto rows = [&] {
    std::vector<Index> result;
    for (const CollectiveRecord& record : log.incomplete()) result.push_back(record.rows);
    return result;
  };
  EXPECT_EQ(rows(), (std::vector<Index>{1, 2, 3}));
  EXPECT_EQ(log.incomplete().back().state(), CollectiveState::waiting);
  log.complete(third, Clock::now());
  log.abandon(second);
  EXPECT_EQ(rows(), std::vector<Index>{1});
  log.complete(second, Clock::now());
  EXPECT_EQ(log.records()[1].state(), CollectiveState::abandoned) << "an abandoned collective stays so";
  finish(log, first);
  EXPECT_EQ(rows(), std::vector<Index>());
}

/// Every record is reported once, when it is complete and closed, however many there are.
TEST(EventLog, KeepsRecordsUntilTheyAreReported) {
  EventLog log(3);
  const int group = log.open("world", kMembers);
  finish(log, post(log, group, 1000));
  log.start_reports();
  std::vector<std::uint64_t> open;
  for (Index i = 0; i < 20; ++i) {
    const auto id = post(log, group, i);
    if (i % 5 == 2) {
      open.push_back(id);
    } else {
      finish(log, id);
    }
  }
  const auto rows = [&] {
    std::vector<Index> result;
    for (const CollectiveRecord& record : log.take_completed()) result.push_back(record.rows);
    return result;
  };
  EXPECT_EQ(rows(), (std::vector<Index>{0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 13, 14, 15, 16, 18, 19}));
  EXPECT_EQ(rows(), std::vector<Index>());
  log.complete(open[0], Clock::now());
  EXPECT_EQ(rows(), std::vector<Index>()) << "its wait is still to come";
  log.close(open[0], 0.1);
  finish(log, open[1]);
  log.abandon(open[2]);
  EXPECT_EQ(rows(), (std::vector<Index>{2, 7}));
  finish(log, open[3]);
  EXPECT_EQ(rows(), std::vector<Index>{17});
  for (Index i = 0; i < 100; ++i) {
    finish(log, post(log, group, i));
    EXPECT_EQ(rows(), std::vector<Index>{i});
  }
  EXPECT_EQ(log.records().size(), 3U) << "reported records do not pile up";
}

/// A transfer whose operation completes when the test says so.
class ManualTransfer final : public Transfer {
 public:
  explicit ManualTransfer(const bool& complete) : complete_(complete) {}
  void wait(Stream&) override {}
  bool done() override { return complete_; }
  std::optional<Clock::time_point> completed() override { return complete_ ? std::optional(Clock::now()) : std::nullopt; }

 private:
  const bool& complete_;
};

TEST(EventLog, CompletesTrackedTransfersWhenPolled) {
  EventLog log;
  const int group = log.open("world", kMembers);
  bool complete = false;
  const auto id = post(log, group);
  log.track(id, std::make_shared<ManualTransfer>(complete));
  log.wait(id);
  log.close(id, 0);
  log.poll();
  EXPECT_EQ(log.records()[0].state(), CollectiveState::waiting) << "a wait that has returned is not completion";
  complete = true;
  EXPECT_EQ(log.records()[0].state(), CollectiveState::waiting);
  log.poll();
  EXPECT_EQ(log.records()[0].state(), CollectiveState::complete);
}

TEST(EventLog, IsSafeFromSeveralThreads) {
  EventLog log(8);
  const int group = log.open("world", kMembers);
  {
    const std::jthread reader([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        EXPECT_LE(log.records().size(), 12U);
        (void)log.incomplete();
      }
    });
    std::vector<std::jthread> writers;
    for (int thread = 0; thread < 3; ++thread) {
      writers.emplace_back([&] {
        for (int i = 0; i < 2000; ++i) {
          const auto id = post(log, group);
          log.wait(id);
          finish(log, id);
        }
      });
    }
  }
  EXPECT_EQ(log.groups()[0].sequence, 6000U);
  EXPECT_TRUE(log.incomplete().empty());
}

/// What a communicator's public functions record.
TEST(EventLog, FollowsACollective) {
  EventLog first;
  EventLog second;
  run_local_world({.ranks = 2, .nodes = {}, .logs = {&first, &second}}, [&](Communicator& comm) {
    EventLog& own = comm.rank() == 0 ? first : second;
    Stream stream{Device{}};
    const Tensor x = Tensor::zeros(stream, {6, 2});
    Work work = comm.all_reduce(stream, {"totals"}, x);
    EXPECT_EQ(own.records().back().state(), CollectiveState::posted);
    work.wait(stream);
    EXPECT_EQ(own.records().back().state(), CollectiveState::complete);
    EXPECT_EQ(own.records().back().op, "all_reduce");
    EXPECT_EQ(own.records().back().rows, 6);
    EXPECT_EQ(own.records().back().bytes(), 48);  // 2 x (n - 1)/n of the tensor
    EXPECT_EQ(own.records().back().sequence, 1U);
    const auto group = comm.split(0, 0, "group");
    EXPECT_EQ(own.records().back().op, "split");
    EXPECT_EQ(own.records().back().sequence, 2U);
    group->barrier({"barrier"});
    EXPECT_EQ(own.records().back().sequence, 1U);
    EXPECT_EQ(own.groups()[static_cast<std::size_t>(own.records().back().group)].name, "group");
  });
  EXPECT_THROW(run_local_world({.ranks = 2, .nodes = {}, .logs = {&first, &second}},
                               [&](Communicator& comm) {
                                 check(comm.rank() == 1, "rank 0 fails");
                                 comm.barrier({"barrier"});
                               }),
               Error);
  EXPECT_EQ(second.records().back().state(), CollectiveState::abandoned);
}

TEST(Label, NamesKindAndPlace) {
  EXPECT_EQ((Label{"dispatch", 3}).text(), "layer.3.dispatch");
  EXPECT_EQ((Label{"gradients.dense", Label::kEmbedding}).text(), "embedding.gradients.dense");
  EXPECT_EQ((Label{"parameters.dense", Label::kHead}).text(), "head.parameters.dense");
  EXPECT_EQ((Label{"metrics"}).text(), "metrics");
}

}  // namespace
}  // namespace yard
