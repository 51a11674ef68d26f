#pragma once

#include <cstddef>
#include <string_view>

namespace yard {

/// Length of the longest prefix that is valid UTF-8: no truncated, overlong or surrogate sequences, nothing above U+10FFFF (RFC 3629).
inline std::size_t utf8_prefix(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const auto trail = [&](std::size_t i) { return (byte(i) & 0xc0U) == 0x80U; };
  std::size_t at = 0;
  while (at < text.size()) {
    const unsigned lead = byte(at);
    if (lead < 0x80) {
      ++at;
    } else if (lead >= 0xc2 && lead < 0xe0 && trail(at + 1)) {
      at += 2;
    } else if ((lead & 0xf0U) == 0xe0 && trail(at + 1) && trail(at + 2) && !(lead == 0xe0 && byte(at + 1) < 0xa0) &&
               !(lead == 0xed && byte(at + 1) >= 0xa0)) {
      at += 3;
    } else if (lead >= 0xf0 && lead < 0xf5 && trail(at + 1) && trail(at + 2) && trail(at + 3) && !(lead == 0xf0 && byte(at + 1) < 0x90) &&
               !(lead == 0xf4 && byte(at + 1) >= 0x90)) {
      at += 4;
    } else {
      break;
    }
  }
  return at;
}

/// Length of the last character of a text where its bytes are not all there yet, else 0: at most 3.
inline std::size_t utf8_unfinished(std::string_view text) {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto lead = static_cast<unsigned char>(text[text.size() - back]);
    if ((lead & 0xc0U) == 0x80U) continue;
    const std::size_t bytes = lead < 0xc2 || lead >= 0xf5 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    return bytes > back ? back : 0;
  }
  return 0;
}

}  // namespace yard
