#include "core/data/token_scan.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace yard {

namespace {

constexpr Index kBlock = Index{1} << 20;  // ids between two looks at `enough`
constexpr Index kPart = Index{1} << 13;   // ids whose extremes are found before their positions are looked for

template <class T>
T id_at(const std::byte* ids, Index index) {
  T value;
  std::memcpy(&value, ids + static_cast<std::size_t>(index) * sizeof(T), sizeof(T));  // not aligned
  return value;
}

template <class T>
void scan_part(const std::byte* ids, Index first, Index count, TokenScan& scan) {
  T low = id_at<T>(ids, 0);
  T high = low;
#pragma omp simd reduction(min : low) reduction(max : high)
  for (Index i = 0; i < count; ++i) {
    const T id = id_at<T>(ids, i);
    low = std::min(low, id);
    high = std::max(high, id);
  }
  const auto position_of = [&](T id) {
    Index i = 0;
    while (id_at<T>(ids, i) != id) ++i;
    return first + i;
  };
  if (static_cast<std::int64_t>(low) < scan.smallest) {
    scan.smallest = static_cast<std::int64_t>(low);
    scan.smallest_at = position_of(low);
  }
  if (static_cast<std::int64_t>(high) > scan.largest) {
    scan.largest = static_cast<std::int64_t>(high);
    scan.largest_at = position_of(high);
  }
}

template <class T>
void scan_block(std::span<const std::byte> ids, Index first, TokenScan& scan) {
  const auto count = static_cast<Index>(ids.size() / sizeof(T));
  for (Index i = 0; i < count; i += kPart) {
    scan_part<T>(ids.data() + static_cast<std::size_t>(i) * sizeof(T), first + i, std::min(kPart, count - i), scan);
  }
}

void scan_block(TokenWidth width, std::span<const std::byte> ids, Index first, TokenScan& scan) {
  switch (width) {
    case TokenWidth::u8:
      return scan_block<std::uint8_t>(ids, first, scan);
    case TokenWidth::i8:
      return scan_block<std::int8_t>(ids, first, scan);
    case TokenWidth::i16:
      return scan_block<std::int16_t>(ids, first, scan);
    case TokenWidth::u16:
      return scan_block<std::uint16_t>(ids, first, scan);
    case TokenWidth::i32:
      return scan_block<std::int32_t>(ids, first, scan);
    case TokenWidth::u32:
      return scan_block<std::uint32_t>(ids, first, scan);
    case TokenWidth::i64:
      return scan_block<std::int64_t>(ids, first, scan);
  }
}

[[noreturn]] void reject(const TokenStream& stream, std::int64_t id, Index position, Index vocabulary) {
  fail_input("token file ", stream.path_at(position), " holds id ", id, " at position ", position, ", outside of the vocabulary of ",
             vocabulary, "; model.vocabulary and the tokenizer of the file must agree");
}

}  // namespace

TokenScan merged(const TokenScan& a, const TokenScan& b) {
  TokenScan both = a;
  if (b.smallest < a.smallest || (b.smallest == a.smallest && b.smallest_at < a.smallest_at)) {
    both.smallest = b.smallest;
    both.smallest_at = b.smallest_at;
  }
  if (b.largest > a.largest || (b.largest == a.largest && b.largest_at < a.largest_at)) {
    both.largest = b.largest;
    both.largest_at = b.largest_at;
  }
  return both;
}

Index scan_tokens(const TokenStream& stream, Index first, Index last, TokenScan& scan, const std::function<bool()>& enough) {
  while (first < last) {
    const TokenStream::Segment segment = stream.segment_at(first);
    const Index count = std::min({segment.count, last - first, kBlock});
    const auto ids = segment.bytes.first(static_cast<std::size_t>(count) * bytes_of(segment.width));
    scan_block(segment.width, ids, first, scan);
    if (segment.file != nullptr) segment.file->release(ids);
    first += count;
    if (enough()) break;
  }
  return first;
}

void check_vocabulary(const TokenStream& stream, const TokenScan& scan, Index vocabulary) {
  if (scan.smallest < 0) reject(stream, scan.smallest, scan.smallest_at, vocabulary);
  if (scan.largest >= vocabulary) reject(stream, scan.largest, scan.largest_at, vocabulary);
}

}  // namespace yard
