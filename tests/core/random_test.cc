#include "core/random.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace yard {
namespace {

using Block = std::array<std::uint32_t, 4>;

TEST(Random, IsPhiloxOfSalmonAndOthers) {  // the known answers of their library Random123, philox4x32 with 10 rounds
  EXPECT_EQ(Random(0).block(0), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Random(~0ULL).block(~0ULL, ~0ULL), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Random(0x299f31d0a4093822ULL).block(0x85a308d3243f6a88ULL, 0x0370734413198a2eULL),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, UniformAndBitsReadTheBlock) {
  const Random random(5);
  EXPECT_EQ(random.bits(9), (std::uint64_t{random.block(9)[1]} << 32) | random.block(9)[0]);
  double sum = 0;
  double squares = 0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double u = static_cast<double>(random.uniform(static_cast<std::uint64_t>(i)));
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 4 * std::sqrt(1.0 / 12 / kDraws));
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 4 * std::sqrt(4.0 / 45 / kDraws));
}

TEST(Random, NormalHasTheMomentsOfTheNormalDistribution) {
  const Random random(key_of("layers.3.router"));
  constexpr int kDraws = 200000;
  std::array<double, 5> moment{};
  double neighbours = 0;
  double before = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double z = static_cast<double>(random.normal(static_cast<std::uint64_t>(i)));
    double power = 1;
    for (double& m : moment) {
      m += power / kDraws;
      power *= z;
    }
    neighbours += z * before / kDraws;
    before = z;
  }
  const double unit = 1 / std::sqrt(static_cast<double>(kDraws));  // of the mean; the variances of z^2, z^3, z^4 are 2, 15, 96
  EXPECT_NEAR(moment[1], 0, 4 * unit);
  EXPECT_NEAR(moment[2], 1, 4 * unit * std::sqrt(2.0));
  EXPECT_NEAR(moment[3], 0, 4 * unit * std::sqrt(15.0));
  EXPECT_NEAR(moment[4], 3, 4 * unit * std::sqrt(96.0));
  EXPECT_NEAR(neighbours, 0, 4 * unit);
}

TEST(Random, KeysDiffer) {
  std::set<std::uint64_t> seen;
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    for (std::uint64_t step = 0; step < 30; ++step) {
      for (std::uint64_t layer = 0; layer < 10; ++layer) seen.insert(key_of(seed, step, layer));
    }
  }
  EXPECT_EQ(seen.size(), 9000U);
  EXPECT_NE(key_of(1, 2), key_of(2, 1)) << "the order of the words matters";
  EXPECT_NE(key_of(1), key_of(1, 0)) << "so does their number";
  EXPECT_NE(key_of("layers.0.experts.1.w1"), key_of("layers.1.experts.0.w1"));
  std::set<std::uint64_t> draws;
  for (std::uint64_t key = 0; key < 1000; ++key) draws.insert(Random(key_of(key)).bits(0));
  EXPECT_EQ(draws.size(), 1000U) << "keys that lie close give draws that do not";
}

TEST(Random, OneBitOfTheKeyOrCounterChangesHalfTheBits) {
  double flipped = 0;
  int trials = 0;
  for (int bit = 0; bit < 64; ++bit) {
    const std::uint64_t word = std::uint64_t{1} << bit;
    flipped += std::popcount(Random(7).bits(3) ^ Random(7 ^ word).bits(3));
    flipped += std::popcount(Random(7).bits(3) ^ Random(7).bits(3 ^ word));
    flipped += std::popcount(mix(12345) ^ mix(12345 ^ word));
    trials += 3 * 64;
  }
  EXPECT_NEAR(flipped / trials, 0.5, 0.02);
}

}  // namespace
}  // namespace yard
