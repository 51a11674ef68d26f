#include "launch/growing_text.h"

#include <gtest/gtest.h>

#include <sstream>

namespace yard {
namespace {

TEST(GrowingText, PrintsEachTokenAtOnceAndCharactersWhole) {
  const auto tokenizer = byte_tokenizer();
  std::ostringstream out;
  GrowingText text(*tokenizer, 1, out);
  std::vector<std::int32_t> ids = {256, 'a'};
  const auto add = [&](int id) {
    ids.push_back(id);
    text.show(ids);
    return out.str();
  };
  text.show(ids);
  EXPECT_EQ(out.str(), "a") << "the start token is no text";
  EXPECT_EQ(add('b'), "ab");
  EXPECT_EQ(add(0xf0), "ab");
  EXPECT_EQ(add(0x9f), "ab");
  EXPECT_EQ(add(0x99), "ab");
  EXPECT_EQ(add(0x82), "ab\xf0\x9f\x99\x82");
  EXPECT_EQ(add(300), "ab\xf0\x9f\x99\x82") << "an id without text";
  EXPECT_EQ(add(0x92), "ab\xf0\x9f\x99\x82\x92") << "a byte that is no character waits for nothing";
  EXPECT_EQ(add(0xc3), "ab\xf0\x9f\x99\x82\x92");
  text.finish();
  EXPECT_EQ(out.str(), "ab\xf0\x9f\x99\x82\x92\xc3\n") << "nothing is lost at the end";
}

}  // namespace
}  // namespace yard
