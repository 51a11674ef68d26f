#include "core/permutation.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

namespace yard {
namespace {

std::vector<Index> all_of(const Permutation& permutation) {
  std::vector<Index> result;
  for (Index i = 0; i < permutation.size(); ++i) result.push_back(permutation(i));
  return result;
}

TEST(Permutation, IsOneToOne) {
  for (const Index n : {1, 2, 3, 4, 5, 10, 16, 17, 1000, 4096, 65537}) {
    for (const std::uint64_t key : {0ULL, 1ULL, 0xfeedULL}) {
      std::vector<bool> taken(static_cast<std::size_t>(n));
      for (const Index place : all_of(Permutation(key, n))) {
        ASSERT_GE(place, 0);
        ASSERT_LT(place, n);
        ASSERT_FALSE(taken[static_cast<std::size_t>(place)]) << place << " is taken twice of " << n;
        taken[static_cast<std::size_t>(place)] = true;
      }
    }
  }
}

TEST(Permutation, KeysGiveOrdersOfTheirOwn) {
  for (const Index n : {Index{10}, Index{1000}, Index{65537}}) {
    const auto a = all_of(Permutation(1, n));
    EXPECT_EQ(a, all_of(Permutation(1, n)));
    const auto b = all_of(Permutation(2, n));
    EXPECT_NE(a, b);
    Index equal = 0;
    Index fixed = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      equal += a[i] == b[i] ? 1 : 0;
      fixed += a[i] == static_cast<Index>(i) ? 1 : 0;
    }
    EXPECT_LE(equal, 9) << "two random orders agree in one place on average";
    EXPECT_LE(fixed, 9) << "a random order leaves one item in place on average";
  }
}

TEST(Permutation, AllOrdersOfThreeComeAlikeOften) {
  std::map<std::vector<Index>, int> seen;
  for (std::uint64_t key = 0; key < 6000; ++key) ++seen[all_of(Permutation(key_of(key), 3))];
  EXPECT_EQ(seen.size(), 6U);
  for (const auto& [order, times] : seen) EXPECT_NEAR(times, 1000, 200) << order[0] << order[1] << order[2];
}

TEST(Permutation, NeighboursAreTornApart) {
  const Index n = 10007;
  const Permutation permutation(3, n);
  double product = 0;
  const double mean = static_cast<double>(n - 1) / 2;
  for (Index i = 0; i + 1 < n; ++i) {
    product += (static_cast<double>(permutation(i)) - mean) * (static_cast<double>(permutation(i + 1)) - mean);
  }
  const double variance = static_cast<double>(n) * static_cast<double>(n) / 12;
  EXPECT_NEAR(product / static_cast<double>(n) / variance, 0, 0.04) << "the correlation of neighbours";
}

TEST(Permutation, HoldsForVeryManyItems) {
  const Index n = (Index{1} << 40) + 12345;
  const Permutation permutation(9, n);
  for (const Index i : {Index{0}, Index{1}, n / 2, n - 1}) {
    EXPECT_GE(permutation(i), 0);
    EXPECT_LT(permutation(i), n);
  }
}

TEST(Permutation, RefusesItemsThatAreNotThere) {
  EXPECT_THROW(Permutation(1, 0), Error);
  const Permutation permutation(1, 5);
  EXPECT_THROW((void)permutation(5), Error);
  EXPECT_THROW((void)permutation(-1), Error);
}

}  // namespace
}  // namespace yard
