#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace yard {

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4) of a piece of data; `before` is that of what came before it.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before = 0);

}  // namespace yard
