#include "comm/flight_recorder.h"

#include <thread>

#include "comm/local.h"
#include "tests/support/support.h"

namespace yard {
namespace {

const std::vector<int> kMembers = {0, 1};

std::uint64_t start(FlightRecorder& recorder, int channel, Index rows = 0) {
  return recorder.start(channel, "all_to_all", {"dispatch", 3}, rows, 8 * rows, CollectiveState::started);
}

TEST(FlightRecorder, KeepsTheLastRecordsInOrder) {
  FlightRecorder recorder(4);
  const int channel = recorder.open("world", kMembers);
  for (Index i = 0; i < 10; ++i) recorder.change(start(recorder, channel, i), CollectiveState::done);
  const auto records = recorder.records();
  ASSERT_EQ(records.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(records[i].rows, static_cast<Index>(6 + i));
    EXPECT_EQ(records[i].sequence, 7 + i);
    EXPECT_EQ(records[i].bytes, 8 * records[i].rows);
    EXPECT_EQ(records[i].label.text(), "layer.3.dispatch");
    EXPECT_EQ(records[i].state, CollectiveState::done);
    EXPECT_LE(records[i].started, records[i].ended);
  }
}

TEST(FlightRecorder, NeverForgetsWhatHasNotEnded) {
  FlightRecorder recorder(2);
  const int channel = recorder.open("world", kMembers);
  const auto oldest = start(recorder, channel, 100);
  const auto older = start(recorder, channel, 101);
  for (Index i = 0; i < 5; ++i) recorder.change(start(recorder, channel, i), CollectiveState::done);
  ASSERT_EQ(recorder.records().size(), 4U);
  EXPECT_EQ(recorder.records()[0].rows, 100);
  EXPECT_EQ(recorder.records()[1].rows, 101);
  recorder.change(older, CollectiveState::waiting);
  EXPECT_EQ(recorder.waiting()->rows, 101);
  recorder.change(oldest, CollectiveState::done);
  recorder.change(older, CollectiveState::done);
  EXPECT_EQ(recorder.records().size(), 2U);
  EXPECT_FALSE(recorder.waiting().has_value());
}

TEST(FlightRecorder, CountsEveryCommunicatorByItself) {
  FlightRecorder recorder;
  const int world = recorder.open("world", kMembers);
  const int expert = recorder.open("world/expert", std::vector<int>{1});
  const int again = recorder.open("world/expert", kMembers);
  start(recorder, world);
  start(recorder, world);
  start(recorder, expert);
  const auto channels = recorder.channels();
  EXPECT_EQ(channels[static_cast<std::size_t>(world)].sequence, 2U);
  EXPECT_EQ(channels[static_cast<std::size_t>(expert)].sequence, 1U);
  EXPECT_EQ(channels[static_cast<std::size_t>(expert)].members, std::vector<int>{1});
  EXPECT_EQ(channels[static_cast<std::size_t>(again)].name, "world/expert#2");
  EXPECT_EQ(channels[static_cast<std::size_t>(again)].sequence, 0U);
}

TEST(FlightRecorder, TellsTheLongestWait) {
  FlightRecorder recorder;
  const int channel = recorder.open("world", kMembers);
  const auto first = start(recorder, channel, 1);
  const auto second = start(recorder, channel, 2);
  EXPECT_FALSE(recorder.waiting().has_value()) << "a rank that computes on does not wait";
  recorder.change(second, CollectiveState::waiting);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  recorder.change(first, CollectiveState::waiting);
  EXPECT_EQ(recorder.waiting()->rows, 2);
  recorder.change(second, CollectiveState::abandoned);
  EXPECT_EQ(recorder.waiting()->rows, 1);
  recorder.change(second, CollectiveState::waiting);
  EXPECT_EQ(recorder.records()[1].state, CollectiveState::abandoned) << "nothing follows an end";
}

TEST(FlightRecorder, IsSafeFromSeveralThreads) {
  FlightRecorder recorder(8);
  const int channel = recorder.open("world", kMembers);
  {
    const std::jthread watching([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        EXPECT_LE(recorder.records().size(), 12U);
        (void)recorder.waiting();
      }
    });
    std::vector<std::jthread> writing;
    for (int thread = 0; thread < 3; ++thread) {
      writing.emplace_back([&] {
        for (int i = 0; i < 2000; ++i) {
          const auto id = start(recorder, channel);
          recorder.change(id, CollectiveState::waiting);
          recorder.change(id, CollectiveState::done);
        }
      });
    }
  }
  EXPECT_EQ(recorder.channels()[0].sequence, 6000U);
  EXPECT_FALSE(recorder.waiting().has_value());
}

/// What the front door of a communicator writes.
TEST(FlightRecorder, FollowsACollective) {
  FlightRecorder first;
  FlightRecorder second;
  run_local_world({.ranks = 2, .nodes = {}, .recorders = {&first, &second}}, [&](Communicator& comm) {
    FlightRecorder& own = comm.rank() == 0 ? first : second;
    Stream stream{Device{}};
    Profiler profiler;
    const Tensor x = Tensor::zeros(stream, {6, 2});
    Work work = comm.all_reduce(stream, profiler, {"totals"}, x);
    EXPECT_EQ(own.records().back().state, CollectiveState::started);
    work.wait(stream);
    EXPECT_EQ(own.records().back().state, CollectiveState::done);
    EXPECT_EQ(own.records().back().op, "all_reduce");
    EXPECT_EQ(own.records().back().rows, 6);
    EXPECT_EQ(own.records().back().bytes, 48);  // 2 x (n - 1)/n of the tensor
    EXPECT_EQ(own.records().back().sequence, 1U);
    const auto group = comm.split(0, 0, "world/group");
    EXPECT_EQ(own.records().back().op, "split");
    EXPECT_EQ(own.records().back().sequence, 2U);
    group->barrier(profiler, {"meet"});
    EXPECT_EQ(own.records().back().sequence, 1U);
    EXPECT_EQ(own.channels()[static_cast<std::size_t>(own.records().back().channel)].name, "world/group");
  });
  EXPECT_THROW(run_local_world({.ranks = 2, .nodes = {}, .recorders = {&first, &second}},
                               [&](Communicator& comm) {
                                 Profiler profiler;
                                 check(comm.rank() == 1, "rank 0 fails");
                                 comm.barrier(profiler, {"meet"});
                               }),
               Error);
  EXPECT_EQ(second.records().back().state, CollectiveState::abandoned);
}

}  // namespace
}  // namespace yard
