#include "launch/schedule.h"

#include <cmath>

#include "launch/config_reader.h"
#include "launch/config_rules.h"
#include "tests/support/support.h"

namespace yard {
namespace {

RunConfig with(const std::string& optimizer) {
  return resolve(parse_config("run { steps: 100 } optimizer { peak_rate: 2 final_rate: 0.5 warmup_steps: 10 " + optimizer + " }", "test"),
                 1);
}

TEST(Schedule, WarmsUpLinearlyWhateverFollows) {
  for (const char* schedule : {"cosine", "linear", "constant", "wsd"}) {
    const RunConfig config = with(std::string("schedule: ") + schedule);
    for (long step = 0; step < 10; ++step)
      EXPECT_DOUBLE_EQ(learning_rate(config, step), 2.0 * static_cast<double>(step + 1) / 10) << schedule;
    EXPECT_DOUBLE_EQ(learning_rate(config, 10), 2) << schedule << " begins at the peak";
  }
}

TEST(Schedule, CosineGoesDownHalfAWave) {
  const RunConfig config = with("schedule: cosine");
  for (long step = 10; step <= 100; ++step) {
    EXPECT_NEAR(learning_rate(config, step), 0.5 + 1.5 * (1 + std::cos(M_PI * static_cast<double>(step - 10) / 90)) / 2, 1e-12) << step;
  }
  EXPECT_NEAR(learning_rate(config, 55), 1.25, 1e-12);
  EXPECT_NEAR(learning_rate(config, 100), 0.5, 1e-12);
  EXPECT_NEAR(learning_rate(config, 500), 0.5, 1e-12) << "a run that goes on stays at the end";
}

TEST(Schedule, LinearAndConstant) {
  EXPECT_NEAR(learning_rate(with("schedule: linear"), 55), 1.25, 1e-12);
  EXPECT_NEAR(learning_rate(with("schedule: linear"), 28), 2 - 1.5 * 0.2, 1e-12);
  EXPECT_NEAR(learning_rate(with("schedule: linear"), 100), 0.5, 1e-12);
  EXPECT_EQ(learning_rate(with("schedule: constant"), 99), 2);
}

TEST(Schedule, WsdStaysAndThenFalls) {
  const RunConfig config = with("schedule: wsd decay_steps: 20");
  for (long step = 10; step <= 80; ++step) EXPECT_EQ(learning_rate(config, step), 2) << step;
  EXPECT_NEAR(learning_rate(config, 81), 2 - 1.5 / 20, 1e-12);
  EXPECT_NEAR(learning_rate(config, 90), 1.25, 1e-12);
  EXPECT_NEAR(learning_rate(config, 100), 0.5, 1e-12);
}

TEST(Schedule, DefaultsAreATenthAndOnePercent) {
  const RunConfig config = resolve(parse_config("run { steps: 1000 } optimizer { peak_rate: 3 }", "test"), 1);
  EXPECT_DOUBLE_EQ(learning_rate(config, 0), 0.3);  // 10 steps of warm-up
  EXPECT_DOUBLE_EQ(learning_rate(config, 9), 3);
  EXPECT_NEAR(learning_rate(config, 1000), 0.3, 1e-12);
}

TEST(Schedule, NoWarmUpAndARunOfOneStep) {
  EXPECT_EQ(learning_rate(resolve(parse_config("run { steps: 1 } optimizer { peak_rate: 3 warmup_steps: 0 }", "test"), 1), 0), 3);
  EXPECT_EQ(learning_rate(resolve(parse_config("run { steps: 1 } optimizer { peak_rate: 3 }", "test"), 1), 0), 3);
}

}  // namespace
}  // namespace yard
