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

}  // namespace
}  // namespace yard
