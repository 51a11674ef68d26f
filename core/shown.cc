#include "core/shown.h"

#include "core/data/utf8.h"

namespace yard {

std::string shown(std::string_view text, std::size_t most) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string_view rest = text;
  std::string result;
  while (!rest.empty() && result.size() < most) {
    const auto byte = static_cast<unsigned char>(rest[0]);
    // Characters are at most 4 bytes; those of one byte that are control characters are escaped as well.
    std::size_t size = byte < 0x80 ? (byte >= 0x20 && byte != 0x7f ? 1 : 0) : 0;
    for (std::size_t bytes = 2; byte >= 0x80 && bytes <= 4 && size == 0; ++bytes) {
      if (bytes <= rest.size() && utf8_prefix(rest.substr(0, bytes)) == bytes) size = bytes;
    }
    if (size == 0) {
      result += "\\x";
      result += kHex[byte >> 4U];
      result += kHex[byte & 15U];
      size = 1;
    } else {
      result += rest.substr(0, size);
    }
    rest.remove_prefix(size);
  }
  return !rest.empty() ? result + "..." : result;
}

}  // namespace yard
