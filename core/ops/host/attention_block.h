#pragma once

#include <algorithm>
#include <type_traits>

#include "core/ops/attention.h"
#include "core/ops/host/gemm.h"
#include "core/ops/host/layout.h"
#include "core/ops/host/tasks.h"

namespace yard::ops::host {

inline constexpr Index kBlockRows = 64;  // query rows worked on at a time: the scores of a block stay in a core's cache
inline constexpr Index kPadding = 16;    // rows of a product are a multiple of this
inline constexpr Index kKeyStep = 64;    // and keys of this, so that few products are compiled
inline constexpr Index kKeysAtOnce = 1024;

inline Index padded(Index rows) { return (rows + kPadding - 1) / kPadding * kPadding; }
inline Index padded_keys(Index keys) { return (keys + kKeyStep - 1) / kKeyStep * kKeyStep; }

/// A block of query rows [row, row + rows) of a sequence, which is multiplied with its keys [first, end), both multiples of kKeyStep; row r
/// sees [start(r), entry(r)] of them.
struct AttentionBlock {
  Index row, rows, first, end;
  Index offset = 0;                         // the entry of the sequence's row 0
  const std::int32_t* positions = nullptr;  // of the sequence's rows; none: every row sees from entry 0

  Index entry(Index r) const { return offset + row + r; }
  Index start(Index r) const { return positions == nullptr ? 0 : entry(r) - positions[row + r]; }
  Index keys() const { return end - first; }
};

inline AttentionBlock block_at(Index number, Index rows, Index offset, const std::int32_t* positions) {
  AttentionBlock block{number * kBlockRows, std::min(kBlockRows, rows - number * kBlockRows), 0, 0, offset, positions};
  block.end = padded_keys(block.entry(block.rows));
  block.first = block.end;
  for (Index r = 0; r < block.rows; ++r) {
    const Index start = block.start(r);
    check(start >= 0 && start <= block.entry(r), "row ", block.entry(r), " of a sequence cannot be at position ", block.entry(r) - start);
    block.first = std::min(block.first, start);
  }
  block.first = block.first / kKeyStep * kKeyStep;
  return block;
}

/// The values that attention's own products multiply where rows are of T: bf16 only where the processor multiplies it, else they are
/// widened. Calls body(V{}).
template <class T, class Body>
void with_product_type(const Body& body) {
  if (std::is_same_v<T, BFloat16> && multiplies_bf16()) return body(BFloat16{});
  body(float{});
}

/// What a product of rows of T meets: rounded to T on every processor, also where such rows are widened for their products.
template <class T, class V>
V met_as(float value) {
  if constexpr (std::is_same_v<T, V>) {
    return value;
  } else {
    return stored_in<T>(value);
  }
}

/// Rows of a head one after another, with rows of zeros up to `all`.
template <class T, class V>
void load_rows(const T* from, Index distance, Index rows, Index all, Index width, V* to) {
  copy_matrix(from, distance, rows, width, to, width);
  std::fill(to + rows * width, to + all * width, V{});
}

/// The keys [from, to) that a row sees of those [first, first + keys), counted from `first`, and the whole vectors [begin, end) around
/// them: loops over these have no remainder, and a condition inside them costs little.
struct Seen {
  Index from, to, begin, end;
  Seen(const AttentionBlock& block, Index r, Index first, Index keys)
      : from(std::clamp<Index>(block.start(r) - first, 0, keys)), to(std::clamp<Index>(block.entry(r) + 1 - first, 0, keys)) {
    constexpr auto kVector = static_cast<Index>(kLanes);
    begin = from / kVector * kVector;
    end = std::max(begin, (to + kVector - 1) / kVector * kVector);
  }
};

/// Calls body(values, first, keys) for each part of the keys of a block: kKeysAtOnce of them, so that the number of shapes of products is
/// bounded. A buffer of one value for each row and key of a block holds part after part, `values` before this one.
template <class Body>
void for_each_part(const AttentionBlock& block, const Body& body) {
  for (Index first = block.first; first < block.end; first += kKeysAtOnce) {
    body(kBlockRows * (first - block.first), first, std::min(kKeysAtOnce, block.end - first));
  }
}

}  // namespace yard::ops::host
