#include "core/io/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace yard {

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before) {
  constexpr std::size_t kLargestCall = std::size_t{1} << 30;  // the library counts in int
  std::uint32_t state = ~before;
  while (!bytes.empty()) {
    const auto piece = bytes.first(std::min(bytes.size(), kLargestCall));
    // The library takes its input as not const and does not write to it.
    auto* data =
        const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(piece.data()));  // NOLINT(cppcoreguidelines-pro-type-const-cast)
    state = crc32_iscsi(data, static_cast<int>(piece.size()), state);
    bytes = bytes.subspan(piece.size());
  }
  return ~state;
}

}  // namespace yard
