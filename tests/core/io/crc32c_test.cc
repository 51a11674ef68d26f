#include "core/io/crc32c.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/random.h"

namespace yard {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }

/// Bit by bit, as the polynomial says.
std::uint32_t slow(const std::string& text) {
  std::uint32_t crc = 0xffffffffU;
  for (const char letter : text) {
    crc ^= static_cast<unsigned char>(letter);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0x82f63b78U : 0U);
  }
  return ~crc;
}

TEST(Crc32c, IsThatOfTheStandard) {
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe3069283U);  // RFC 3720, appendix B.4
  EXPECT_EQ(crc32c({}), 0U);
  std::string text;
  const Random random(1);
  for (std::uint64_t i = 0; i < 1000; ++i) {
    if (i % 37 == 0) {
      EXPECT_EQ(crc32c(bytes_of(text)), slow(text)) << i;
    }
    text += static_cast<char>(random.bits(i));
  }
  for (const std::size_t cut : {0U, 1U, 7U, 64U, 999U, 1000U})
    EXPECT_EQ(crc32c(bytes_of(text.substr(cut)), crc32c(bytes_of(text.substr(0, cut)))), slow(text)) << cut;
}

}  // namespace
}  // namespace yard
