#include "core/shown.h"

#include "core/data/utf8.h"
#include "tests/support/support.h"

namespace yard {
namespace {

TEST(Shown, IsOneShortLineOfUtf8) {
  EXPECT_EQ(shown("caf\xc3\xa9 \xf0\x9f\x99\x82 'x'"), "caf\xc3\xa9 \xf0\x9f\x99\x82 'x'");
  EXPECT_EQ(shown(std::string_view("a\nb\0\x1b[31m\x7f", 10)), "a\\x0ab\\x00\\x1b[31m\\x7f");
  EXPECT_EQ(shown("\xff\xc3(\xed\xa0\x80"), "\\xff\\xc3(\\xed\\xa0\\x80");
  EXPECT_EQ(shown("abcdef", 4), "abcd...");
  EXPECT_EQ(shown("abcd", 4), "abcd");
  EXPECT_EQ(shown(""), "");
  for (const std::string part : {"x", "\xc3\xa9", "\xf0\x9f\x99\x82", "\xff", "\n"}) {
    std::string text;
    for (int i = 0; i < 1000; ++i) text += part;
    const std::string short_text = shown(text);
    EXPECT_LE(short_text.size(), 107U) << part;
    EXPECT_EQ(utf8_prefix(short_text), short_text.size()) << part;
  }
}

}  // namespace
}  // namespace yard
