#include "launch/guard.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "launch/stop_request.h"

namespace yard {
namespace {

using testing::HasSubstr;

TEST(Guard, DropsWhatIsNotFinite) {
  Guard guard({.spike_sigma = 0, .max_skips = 2}, {});
  EXPECT_EQ(guard.judge(3, 1e9), "");
  EXPECT_THAT(guard.judge(std::nan(""), 1), HasSubstr("the loss"));
  EXPECT_FALSE(guard.exhausted());
  EXPECT_THAT(guard.judge(3, std::numeric_limits<double>::infinity()), HasSubstr("the gradient norm"));
  EXPECT_FALSE(guard.exhausted());
  EXPECT_NE(guard.judge(3, std::nan("")), "");
  EXPECT_TRUE(guard.exhausted());
  EXPECT_EQ(guard.judge(3, 1), "");
  EXPECT_FALSE(guard.exhausted());
  Guard strict({}, {});
  EXPECT_NE(strict.judge(std::nan(""), 1), "");
  EXPECT_TRUE(strict.exhausted()) << "by default the first one is one too many";
}

TEST(Guard, DropsSpikesOfTheLast128Norms) {
  Guard guard({.spike_sigma = 3, .max_skips = 5}, {});
  for (int i = 0; i < 15; ++i) EXPECT_EQ(guard.judge(1, i % 2 == 0 ? 1 : 2), "");
  EXPECT_EQ(guard.judge(1, 1000), "") << "too few norms to compare with";
  for (int i = 0; i < 128; ++i) EXPECT_EQ(guard.judge(1, i % 2 == 0 ? 1 : 2), "");
  EXPECT_EQ(guard.recent().size(), 128U);
  // Mean 1.5, deviation 0.5: three of it end at 3.
  EXPECT_EQ(guard.judge(1, 2.99), "");
  const std::vector<double> before = guard.recent();
  Guard again(guard.settings(), before);
  const std::string reason = guard.judge(1, 3.2);
  EXPECT_THAT(reason, HasSubstr("3 standard deviations"));
  EXPECT_EQ(guard.recent(), before) << "a norm that was dropped is not compared with";
  EXPECT_EQ(again.judge(1, 3.2), reason) << "after a break it decides alike";
}

TEST(StopRequest, ReadsDurations) {
  EXPECT_EQ(parse_duration("90", "--exit-after"), 90);
  EXPECT_EQ(parse_duration("2s", "--exit-after"), 2);
  EXPECT_EQ(parse_duration("55m", "--exit-after"), 3300);
  EXPECT_EQ(parse_duration("1.5h", "--exit-after"), 5400);
  EXPECT_EQ(parse_duration("2d", "--exit-after"), 172800);
  for (const char* wrong : {"", "m", "5x", "-3", "0", "1h30", "inf"}) {
    EXPECT_THROW((void)parse_duration(wrong, "--exit-after"), InputError) << wrong;
  }
}

}  // namespace
}  // namespace yard
