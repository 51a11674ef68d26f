#include "tests/support/two_machines.h"
#include "core/io/json.h"

#include <gmock/gmock.h>

#include <chrono>
#include <thread>

#include "tests/launch/program.h"

using namespace yard;
using test::CommandResult;
using test::own_lines;
using test::Program;
using test::TwoMachines;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;

namespace {

struct Curve {
  std::vector<double> losses;
  double bytes_between = 0;  // machines
};

Curve curve_of(const Program& program, const std::string& run) {
  Curve curve;
  std::istringstream lines(program.read(run + "/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const auto step = parse_json(line);
    curve.losses.push_back(step.at("loss").get<double>());
    for (const auto& each : step.at("communication")) {
      // proto3 writes 64-bit integers as text.
      const auto bytes = each.value("bytes_between", nlohmann::json(0));
      curve.bytes_between += bytes.is_string() ? std::stod(bytes.get<std::string>()) : bytes.get<double>();
    }
  }
  return curve;
}

std::string in_folder(const Program& program, const std::string& command) {
  return "cd '" + (program / "") + "' && timeout -k 5 60 " + command;
}

double seconds_since(std::chrono::steady_clock::time_point from) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
}

/// Waits until a condition holds; false when it never does.
template <class Condition>
bool within(double seconds, const Condition& holds) {
  const auto from = std::chrono::steady_clock::now();
  while (!holds()) {
    if (seconds_since(from) > seconds) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

class TwoMachinesTest : public testing::Test {
 protected:
  void SetUp() override {
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1);  // NOLINT(concurrency-mt-unsafe): as on the other machine
    if (!machines_.why_not().empty()) GTEST_SKIP() << "two machines cannot be had here: " << machines_.why_not();
  }
  std::string switchyard(const std::string& words) const { return std::string(YARD_BINARY) + " " + words; }

  Program program_;
  TwoMachines machines_{program_ / "."};
};

TEST_F(TwoMachinesTest, TrainAsOneMachineDoes) {
  const std::string words = "train --config c --set mesh.expert=2 --run-dir ";
  const CommandResult alone = program_.run(words + "one", 2);
  ASSERT_EQ(alone.code, 0) << alone.err;
  const CommandResult both = test::run_command(in_folder(program_, machines_.on(0, machines_.mpirun(1, switchyard(words + "two")))));
  ASSERT_EQ(both.code, 0) << both.err;

  const Curve one = curve_of(program_, "one");
  const Curve two = curve_of(program_, "two");
  ASSERT_EQ(one.losses.size(), 4U);
  EXPECT_EQ(one.losses, two.losses) << "the way that rows travel changes nothing";
  EXPECT_EQ(one.bytes_between, 0);
  EXPECT_GT(two.bytes_between, 1000);
  const std::string log = program_.read("two/log.txt");
  for (const int machine : {0, 1}) EXPECT_THAT(log, HasSubstr(machines_.host(machine)));
  EXPECT_TRUE(within(5, [&] { return machines_.processes().empty(); })) << testing::PrintToString(machines_.processes());
}

TEST_F(TwoMachinesTest, EndTheJobInTimeAndSayWhoHangsWhenTheLinkGoesDown) {
  CommandResult result;
  std::atomic<bool> ended = false;
  std::thread job([&] {
    const std::string words = "train --config c --set mesh.expert=2 --set run.steps=1000000 --set run.watchdog_seconds=1 --run-dir cut";
    result = test::run_command(in_folder(program_, machines_.on(0, machines_.mpirun(1, switchyard(words)))));
    ended = true;
  });
  EXPECT_TRUE(within(20, [&] { return ended || program_.read("cut/metrics.jsonl").size() > 5000; })) << "the run did not start";
  EXPECT_FALSE(ended);
  const auto from = std::chrono::steady_clock::now();
  machines_.cut();
  job.join();
  const double seconds = seconds_since(from);
  EXPECT_NE(result.code, 0);
  EXPECT_NE(result.code, 124) << "only the test's own limit has ended the job";
  // The deadline, the watchdog's grace and the time that mpirun gets to end by itself: 1 + 2 + 5, and what a busy machine adds.
  EXPECT_LT(seconds, 20);
  EXPECT_TRUE(within(15, [&] { return machines_.processes().empty(); }))
      << "left behind after the job's end: " << testing::PrintToString(machines_.processes());

  std::istringstream lines(result.err);
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("watchdog:")) last = line;
  }
  EXPECT_THAT(last, AllOf(HasSubstr("has waited"), HasSubstr("run.watchdog_seconds is 1"))) << result.err;
  EXPECT_THAT(last, AnyOf(HasSubstr("the transfer itself hangs between ranks 0 and 1"),  // both wait in the same one
                          AllOf(HasSubstr("rank 0 has waited"), HasSubstr("rank 1 is missing (rank 1 waits in")),
                          AllOf(HasSubstr("rank 1 has waited"), HasSubstr("rank 0 is missing (rank 0 waits in"))));
  EXPECT_THAT(result.err, testing::Not(HasSubstr("Segmentation fault")));
  for (const int rank : {0, 1}) EXPECT_TRUE(program_.has("cut/watchdog-rank-" + std::to_string(rank) + ".json"));
}

}  // namespace
