#include "core/permutation.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "tests/support/support.h"

namespace yard {
namespace {

TEST(Permutation, IsABijectionForEverySize) {
  for (const Index n : {1, 2, 3, 4, 5, 7, 16, 17, 100, 257, 1000, 4097}) {
    const Permutation permute(42, n);
    std::vector<bool> seen(static_cast<std::size_t>(n));
    for (Index i = 0; i < n; ++i) {
      const Index to = permute(i);
      ASSERT_TRUE(to >= 0 && to < n) << n;
      EXPECT_FALSE(seen[static_cast<std::size_t>(to)]) << n << " maps two entries to " << to;
      seen[static_cast<std::size_t>(to)] = true;
    }
  }
  EXPECT_THROW(Permutation(1, 0), Error);
  EXPECT_THROW((void)Permutation(1, 5)(5), Error);
  EXPECT_THROW((void)Permutation(1, 5)(-1), Error);
}

TEST(Permutation, LargeDomainsStayInside) {
  const Index n = (Index{1} << 40) + 12345;
  const Permutation permute(7, n);
  for (Index i = 0; i < 1000; ++i) EXPECT_LT(permute(n - 1 - i), n);
}

TEST(Permutation, LooksShuffledAndDependsOnTheKey) {
  const Index n = 2000;
  const Permutation a(1, n);
  const Permutation b(2, n);
  Index same = 0;
  Index neighbours = 0;
  double correlation = 0;
  for (Index i = 0; i < n; ++i) {
    same += a(i) == b(i) ? 1 : 0;
    if (i > 0) neighbours += a(i) == a(i - 1) + 1 ? 1 : 0;
    correlation += (static_cast<double>(i) / n - 0.5) * (static_cast<double>(a(i)) / n - 0.5);
  }
  EXPECT_LT(same, 12) << "about one entry agrees by chance";
  EXPECT_LT(neighbours, 12);
  EXPECT_LT(std::abs(12 * correlation / n), 0.1) << "five standard deviations of an independent order are 0.11";
}

}  // namespace
}  // namespace yard
