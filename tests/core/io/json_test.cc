#include "core/io/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace yard {
namespace {

TEST(Json, NumbersThatAreNotFiniteAreNull) {
  const double infinite = std::numeric_limits<double>::infinity();
  const nlohmann::ordered_json value = {{"z", std::nan("")}, {"a", -infinite}, {"b", infinite}, {"c", -std::nan("")}, {"d", 0.5}};
  EXPECT_EQ(json_text(value), R"({"z":null,"a":null,"b":null,"c":null,"d":0.5})");
}

TEST(Json, BytesThatAreNotUtf8AreReplaced) {
  const nlohmann::json value = {{"path", "caf\xe9/\xc3\xa9"}};
  EXPECT_EQ(json_text(value), "{\"path\":\"caf\xef\xbf\xbd/\xc3\xa9\"}");
  EXPECT_FALSE(parse_json(json_text(value, 1)).is_discarded());
}

std::string wrong_with(const std::string& text) {
  std::string wrong;
  EXPECT_TRUE(parse_json(text, wrong).is_discarded()) << text.substr(0, 50);
  return wrong;
}

/// Values are copied and written by recursion: a million brackets must not exhaust the stack.
TEST(Json, RejectsWhatIsNestedTooDeep) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_FALSE(parse_json(nested(1000)).is_discarded());
  EXPECT_TRUE(parse_json(nested(1001)).is_discarded());
  EXPECT_EQ(wrong_with(nested(1000000)), "it is nested more than 1000 deep");
  EXPECT_EQ(wrong_with("{\"a\":" + nested(1000) + "}"), "it is nested more than 1000 deep");
  std::string beside = "[\"\\\"" + std::string(2000, '[') + "\"";
  for (int i = 0; i < 2000; ++i) beside += ",{}";
  EXPECT_FALSE(parse_json(beside + "]").is_discarded()) << "brackets in texts and beside each other are not nested";
}

TEST(Json, SaysWhereItIsWrong) {
  EXPECT_EQ(wrong_with("[1,\xff]"), "byte 0xFF at column 4 is not UTF-8");
  EXPECT_EQ(wrong_with("[1,\n \xff]"), "byte 0xFF at line 2, column 2 is not UTF-8");
  EXPECT_EQ(wrong_with("[1,\n\n nul]").substr(0, 22), "at line 3, column 5: s");
  EXPECT_EQ(wrong_with("[1, nul]").substr(0, 14), "at column 8: s");
  EXPECT_LT(wrong_with("[\"" + std::string(5000, '\x01')).size(), 400U);
}

TEST(Json, WholeNumbersFit64Bits) {
  EXPECT_EQ(whole_number(parse_json("9223372036854775807")), std::int64_t{9223372036854775807});
  EXPECT_EQ(whole_number(parse_json("-9223372036854775808")), std::numeric_limits<std::int64_t>::min());
  for (const char* other : {"9223372036854775808", "18446744073709551615", "1.0", "1e3", "true", "\"1\"", "null", "[1]"})
    EXPECT_FALSE(whole_number(parse_json(other)).has_value()) << other;
}

}  // namespace
}  // namespace yard
