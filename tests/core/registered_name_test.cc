#include "core/registered_name.h"

#include <gmock/gmock.h>

#include "tests/support/support.h"

namespace yard {
namespace {

YARD_PHASE kPhase{"registered_name_test.phase"};
YARD_COLLECTIVE kKind{"registered_name_test.kind"};
YARD_PHASE kLongest{"a name of sixty-three characters, which is the longest allowed."};

TEST(RegisteredName, IsListedInItsTable) {
  const auto phases = registered_phases();
  EXPECT_THAT(phases, testing::IsSupersetOf({std::string_view(kPhase), std::string_view(kLongest)}));
  EXPECT_TRUE(std::is_sorted(phases.begin(), phases.end()));
  EXPECT_EQ(std::adjacent_find(phases.begin(), phases.end()), phases.end()) << "each name once";
  const auto collectives = registered_collectives();
  EXPECT_THAT(collectives, testing::IsSupersetOf({std::string_view(kKind)}));
  EXPECT_THAT(collectives, testing::Not(testing::Contains(std::string_view(kPhase))));
  for (const std::string_view name : phases) EXPECT_FALSE(name.empty());
}

}  // namespace
}  // namespace yard
