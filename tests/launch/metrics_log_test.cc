#include "launch/metrics_log.h"
#include "core/io/json.h"

#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "tests/support/support.h"

using namespace yard;

namespace {
std::vector<std::string> lines_of(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

StepMetrics some_step(int step) {
  StepMetrics metrics;
  metrics.set_step(step);
  metrics.set_tokens(123456789012.0);
  metrics.set_loss(2.5);
  metrics.set_routing("natural");
  auto& layer = *metrics.add_layers();
  layer.add_tokens_per_expert(4096);
  layer.add_tokens_per_expert(0);
  layer.set_max_over_mean(2);
  (*metrics.mutable_losses())["importance"] = 0.5;
  (*metrics.mutable_scalars())["experts_per_token"] = 1.75;
  (*layer.mutable_per_expert())["selection_bias"].add_values(-0.5);
  auto& communication = *metrics.add_communication();
  communication.set_name("layer.0.dispatch");
  communication.set_bytes_within(5e10);
  auto& phase = *metrics.add_phases();
  phase.set_name("attention.forward");
  phase.set_seconds(0.25);
  return metrics;
}

TEST(MetricsLog, WritesOneObjectALineWithTheNamesOfTheProto) {
  const test::TemporaryFolder folder;
  MetricsLog log(folder.path());
  StepMetrics first = some_step(1);
  log.append(first);
  first.set_step(2);
  first.set_validation_loss(0);
  first.set_bits_per_byte(1.5);
  log.append(first);
  const auto lines = lines_of(folder / "metrics.jsonl");  // both are there although the log is open
  ASSERT_EQ(lines.size(), 2U);
  const auto one = parse_json(lines[0]);
  const auto two = parse_json(lines[1]);
  for (const char* name : {"balance_loss", "z_loss", "dropped_fraction"}) EXPECT_FALSE(one.contains(name)) << name;
  for (const char* name : {"step", "tokens", "loss", "grad_norm", "learning_rate", "step_seconds", "tokens_per_second", "model_tflops",
                           "memory_bytes", "skipped_steps"}) {
    ASSERT_TRUE(one.contains(name)) << name;
    EXPECT_TRUE(one[name].is_number()) << name;
  }
  EXPECT_EQ(one["step"], 1);
  EXPECT_EQ(one["tokens"].get<std::int64_t>(), 123456789012);
  EXPECT_NE(lines[0].find("123456789012"), std::string::npos) << "not in exponents";
  EXPECT_EQ(one["routing"], "natural");
  EXPECT_EQ(one["layers"][0]["tokens_per_expert"], nlohmann::json({4096, 0}));
  EXPECT_EQ(one["layers"][0]["max_over_mean"], 2);
  EXPECT_EQ(one["losses"]["importance"], 0.5);
  EXPECT_EQ(one["scalars"]["experts_per_token"], 1.75);
  EXPECT_EQ(one["layers"][0]["per_expert"]["selection_bias"]["values"], nlohmann::json({-0.5}));
  for (const char* name : {"calls", "bytes_within", "bytes_between", "seconds", "exposed_seconds", "hidden_seconds", "slowest_rank"}) {
    EXPECT_TRUE(one["communication"][0].contains(name)) << name;
  }
  EXPECT_EQ(one["communication"][0]["bytes_within"].get<double>(), 5e10);
  EXPECT_EQ(one["phases"][0]["name"], "attention.forward");
  EXPECT_TRUE(one["phases"][0].contains("max_rank"));
  EXPECT_FALSE(one.contains("validation_loss"));
  EXPECT_FALSE(one.contains("bits_per_byte"));
  EXPECT_EQ(two["validation_loss"], 0);
  EXPECT_EQ(two["bits_per_byte"], 1.5);
}

TEST(MetricsLog, StaysJsonWhenTheLossIsNotANumber) {
  StepMetrics metrics = some_step(3);
  metrics.set_loss(std::nan(""));
  EXPECT_EQ(parse_json(metrics_line(metrics))["loss"], "NaN");
}

TEST(MetricsLog, NamesTheFileWhenTheDiskIsFull) {
  const test::TemporaryFolder folder;
  std::filesystem::create_symlink("/dev/full", folder / "metrics.jsonl");
  MetricsLog log(folder.path());
  try {
    log.append(some_step(1));
    FAIL() << "a full disk went unnoticed";
  } catch (const InputError&) {
    FAIL() << "a full disk is no mistake in the input";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), "cannot write " + (folder / "metrics.jsonl") + ": No space left on device");
  }
}

TEST(MetricsLog, NamesTheFileWhenItCannotBeOpened) {
  const test::TemporaryFolder folder;
  try {
    MetricsLog log(folder / "none");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), "cannot write " + (folder / "none") + "/metrics.jsonl: No such file or directory");
  }
}

TEST(MetricsLog, ForgetsWhatAResumedRunWritesAnew) {
  const test::TemporaryFolder folder;
  forget_metrics_after(folder.path(), 3);  // nothing there
  EXPECT_FALSE(std::filesystem::exists(folder / "metrics.jsonl"));
  {
    MetricsLog log(folder.path());
    for (int step = 1; step <= 5; ++step) log.append(some_step(step));
    std::ofstream(folder / "metrics.jsonl", std::ios::app) << R"({"step":2,"lo)";  // cut short by a crash
  }
  forget_metrics_after(folder.path(), 3);
  MetricsLog log(folder.path());
  log.append(some_step(4));
  const auto lines = lines_of(folder / "metrics.jsonl");
  ASSERT_EQ(lines.size(), 4U);
  for (int step = 1; step <= 4; ++step) EXPECT_EQ(parse_json(lines[static_cast<std::size_t>(step) - 1])["step"], step);
}
}  // namespace
