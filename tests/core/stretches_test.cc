#include "core/device/stretches.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "core/random.h"

namespace yard {
namespace {

constexpr std::size_t kMega = std::size_t{1} << 20;

TEST(Stretches, WhatIsFreedServesOtherSizes) {
  Stretches stretches;
  void* const first = stretches.take(3 * kMega);
  void* const second = stretches.take(2 * kMega);
  void* const third = stretches.take(kMega);
  EXPECT_EQ(second, static_cast<std::byte*>(first) + 3 * kMega) << "blocks lie side by side";
  stretches.give_back(first, 3 * kMega);
  stretches.give_back(second, 2 * kMega);
  EXPECT_EQ(stretches.take(5 * kMega), first) << "two neighbours that were freed are one piece";
  stretches.give_back(first, 5 * kMega);
  stretches.give_back(third, kMega);
  EXPECT_EQ(stretches.take(40 * kMega), first);
}

TEST(Stretches, TheSmallestPieceThatFitsIsCut) {
  Stretches stretches;
  void* const large = stretches.take(4 * kMega);
  void* const wall = stretches.take(4096);
  void* const small = stretches.take(kMega);
  void* const end = stretches.take(4096);
  stretches.give_back(large, 4 * kMega);
  stretches.give_back(small, kMega);
  EXPECT_EQ(stretches.take(kMega - 5000), small);
  EXPECT_EQ(stretches.take(2 * kMega), large);
  EXPECT_NE(wall, end);
}

TEST(Stretches, MoreThanAStretchIsMapped) {
  Stretches stretches;
  auto* const huge = static_cast<std::byte*>(stretches.take(200 * kMega));
  auto* const more = static_cast<std::byte*>(stretches.take(100 * kMega));
  huge[200 * kMega - 1] = std::byte{1};
  more[0] = more[100 * kMega - 1] = std::byte{2};
  EXPECT_TRUE(more + 100 * kMega <= huge || huge + 200 * kMega <= more);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(huge) % (2 * kMega), 0U) << "stretches begin at a huge page";
}

TEST(Stretches, BlocksOfAnySizesAndOrdersNeverOverlap) {
  Stretches stretches;
  const Random random(5);
  struct Block {
    std::size_t bytes;
    unsigned char mark;
  };
  std::map<unsigned char*, Block> blocks;
  std::size_t in_use = 0;
  std::size_t most = 0;
  const auto intact = [](unsigned char* at, const Block& block) {
    return at[0] == block.mark && at[block.bytes - 1] == block.mark && at[block.bytes / 2] == block.mark;
  };
  unsigned char* lowest = nullptr;
  unsigned char* highest = nullptr;
  for (std::uint64_t i = 0; i < 4000; ++i) {
    if (random.uniform(3 * i) < (blocks.size() < 30 ? 0.7 : 0.3) || blocks.empty()) {
      const auto bytes = static_cast<std::size_t>(1 + random.bits(3 * i + 1) % 300000);
      auto* const at = static_cast<unsigned char*>(stretches.take(bytes));
      const Block block{bytes, static_cast<unsigned char>(i % 251)};
      at[0] = at[bytes - 1] = at[bytes / 2] = block.mark;
      ASSERT_TRUE(blocks.emplace(at, block).second);
      most = std::max(most, in_use += Stretches::taken(bytes));
      lowest = lowest == nullptr ? at : std::min(lowest, at);
      highest = std::max(highest, at + bytes);
    } else {
      auto victim = blocks.begin();
      std::advance(victim, static_cast<std::ptrdiff_t>(random.bits(3 * i + 2) % blocks.size()));
      ASSERT_TRUE(intact(victim->first, victim->second));
      in_use -= Stretches::taken(victim->second.bytes);
      stretches.give_back(victim->first, victim->second.bytes);
      blocks.erase(victim);
    }
  }
  for (const auto& [at, block] : blocks) {
    EXPECT_TRUE(intact(at, block));
    stretches.give_back(at, block.bytes);
  }
  EXPECT_LT(static_cast<std::size_t>(highest - lowest), 2 * most) << "little is lost between blocks";
  EXPECT_EQ(stretches.take(60 * kMega), lowest) << "all pieces are one again";
}

}  // namespace
}  // namespace yard
