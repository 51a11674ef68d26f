#pragma once

#include <cstdint>
#include <functional>
#include <limits>

#include "core/data/token_file.h"

namespace yard {

/// The smallest and the largest of some token ids as they are stored, and the first position of each in the stream; of no ids at first.
struct TokenScan {
  std::int64_t smallest = std::numeric_limits<std::int64_t>::max(), largest = std::numeric_limits<std::int64_t>::min();
  Index smallest_at = 0, largest_at = 0;
  bool operator==(const TokenScan&) const = default;
};

/// The scan of two parts of a stream together.
TokenScan merged(const TokenScan& a, const TokenScan& b);

/// Scans the ids [first, last) of a stream, in order and in blocks; stops early, after a whole block, once `enough` returns true. Adds to
/// `scan` and returns the position after the last id that was scanned. Pages of mapped files leave the resident set again.
Index scan_tokens(const TokenStream& stream, Index first, Index last, TokenScan& scan, const std::function<bool()>& enough);

/// Throws InputError with the file, the id and its position in the stream when ids of a stream are outside of a vocabulary.
void check_vocabulary(const TokenStream& stream, const TokenScan& scan, Index vocabulary);

}  // namespace yard
