#include "core/nn/module.h"
#include "tests/support/support.h"

namespace yard {
namespace {

TEST(Tape, PopsInReverseOrderByType) {
  Tape tape;
  tape.push(1);
  tape.push(std::string("two"));
  EXPECT_EQ(tape.size(), 2U);
  EXPECT_EQ(tape.pop<std::string>(), "two");
  EXPECT_THROW(tape.pop<std::string>(), Error);
}

TEST(Tape, KeepsValuesForARecomputedPassInOrder) {
  Tape forward = Tape::for_recomputation();
  EXPECT_FALSE(forward.reuse<int>().has_value()) << "the first pass has nothing to reuse";
  forward.keep(1);
  forward.keep(std::string("two"));
  Tape again(forward.take_kept());
  EXPECT_EQ(again.reuse<int>(), 1);
  EXPECT_THROW(again.reuse<int>(), Error) << "another type than the first pass kept";
  EXPECT_FALSE(again.reuse<int>().has_value());
}

TEST(Tape, KeepsNothingWithoutRecomputation) {
  Tape tape;
  tape.keep(std::make_shared<int>(1));
  EXPECT_TRUE(tape.take_kept().empty());
}

}  // namespace
}  // namespace yard
