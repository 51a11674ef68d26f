#include "core/ops/permute.h"

#include "core/ops/gpu.h"

namespace yard::ops::kernels {
namespace {

// ----------------------------------------------------------------------------------------------------------------------- sorting by key

// A stable sort, eight bits of the key at a time from the lowest: each chunk of the entries counts its digits, a prefix sum over digits and
// chunks says where each chunk puts each of its digits, and each chunk puts them there in its order. One thread a digit: no atomics.

constexpr int kDigits = kBlockThreads;
constexpr int kDigitBits = 8;
constexpr Index kChunk = 1024;  // entries
static_assert(kDigits == 1 << kDigitBits);

struct ChunkDigits {
  std::int32_t values[kChunk];
};

/// What entries are sorted by; those without a key come last.
__device__ __forceinline__ std::int32_t place_of(std::int32_t key, Index keys) { return key < 0 ? static_cast<std::int32_t>(keys) : key; }

/// Reads the chunk's digits into shared memory; returns how many entries it has. `order` is null for entries in their own order.
__device__ __forceinline__ int load_digits(ChunkDigits& digits, const std::int32_t* key, const std::int32_t* order, Index count, Index keys,
                                           int shift) {
  const Index first = static_cast<Index>(blockIdx.x) * kChunk;
  const Index entries = count - first < kChunk ? count - first : kChunk;
  for (Index i = threadIdx.x; i < entries; i += blockDim.x) {
    const std::int32_t value = key[order == nullptr ? first + i : order[first + i]];
    require(value >= -1 && value < keys, "a key of group_by is outside of [-1, keys)");
    digits.values[i] = place_of(value, keys) >> shift & (kDigits - 1);
  }
  sync_block();
  return static_cast<int>(entries);
}

/// counts[digit, chunk]
__global__ void count_digits(const std::int32_t* key, const std::int32_t* order, Index count, Index keys, int shift, std::int32_t* counts) {
  auto& digits = shared<ChunkDigits>();
  const int entries = load_digits(digits, key, order, count, keys, shift);
  std::int32_t found = 0;
  for (int i = 0; i < entries; ++i) found += digits.values[i] == static_cast<std::int32_t>(threadIdx.x) ? 1 : 0;
  counts[static_cast<Index>(threadIdx.x) * gridDim.x + blockIdx.x] = found;
}

struct PartTotals {
  std::int32_t values[kBlockThreads];
};

/// Replaces each number by the sum of those before it; one block, each thread a run of them.
__global__ void sum_before(std::int32_t* numbers, Index count) {
  auto& totals = shared<PartTotals>();
  const Index each = (count + blockDim.x - 1) / blockDim.x;
  const Index first = threadIdx.x * each < count ? threadIdx.x * each : count;
  const Index last = first + each < count ? first + each : count;
  std::int32_t total = 0;
  for (Index i = first; i < last; ++i) total += numbers[i];
  totals.values[threadIdx.x] = total;
  sync_block();
  std::int32_t before = 0;
  for (unsigned thread = 0; thread < threadIdx.x; ++thread) before += totals.values[thread];
  for (Index i = first; i < last; ++i) {
    const std::int32_t here = numbers[i];
    numbers[i] = before;
    before += here;
  }
}

/// sorted = the entries of each chunk, at the places of their digits.
__global__ void place_entries(const std::int32_t* key, const std::int32_t* order, Index count, Index keys, int shift,
                              const std::int32_t* places, std::int32_t* sorted) {
  auto& digits = shared<ChunkDigits>();
  const int entries = load_digits(digits, key, order, count, keys, shift);
  const Index first = static_cast<Index>(blockIdx.x) * kChunk;
  std::int32_t next = places[static_cast<Index>(threadIdx.x) * gridDim.x + blockIdx.x];
  for (int i = 0; i < entries; ++i) {
    if (digits.values[i] == static_cast<std::int32_t>(threadIdx.x)) {
      sorted[next++] = order == nullptr ? static_cast<std::int32_t>(first + i) : order[first + i];
    }
  }
}

/// offsets[k] = the number of entries whose key is below k, found in the sorted entries.
__global__ void find_offsets(const std::int32_t* key, const std::int32_t* sorted, Index count, Index keys, std::int32_t* offsets) {
  const Index wanted = item();
  if (wanted > keys) return;
  Index low = 0;
  Index high = count;
  while (low < high) {
    const Index middle = (low + high) / 2;
    if (place_of(key[sorted[middle]], keys) < wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  offsets[wanted] = static_cast<std::int32_t>(low);
}

// ------------------------------------------------------------------------------------------------------------------------- moving rows

/// One block a row of `words` words.
template <class Word>
__global__ void gather_row(const Word* x, const std::int32_t* index, Word* y, Index rows, Index words) {
  const Index row = blockIdx.x;
  const Index from = index[row];
  require(from >= 0 && from < rows, "a row to gather is outside of the rows");
  for (Index i = threadIdx.x; i < words; i += blockDim.x) y[row * words + i] = x[from * words + i];
}

/// The same for rows of one word: a thread each.
template <class Word>
__global__ void gather_word(const Word* x, const std::int32_t* index, Word* y, Index rows, Index count) {
  if (item() >= count) return;
  const Index from = index[item()];
  require(from >= 0 && from < rows, "a row to gather is outside of the rows");
  y[item()] = x[from];
}

template <class Word>
void gather_words(Stream& stream, const Tensor& x, const std::int32_t* index, const Tensor& y, Index words) {
  const auto* from = static_cast<const Word*>(x.raw());
  auto* to = static_cast<Word*>(y.raw());
  if (words == 1) {
    launch(gather_word<Word>, blocks_for(y.length()), kBlockThreads, stream, from, index, to, x.length(), y.length());
  } else {
    launch(gather_row<Word>, blocks_for(y.length(), 1), row_threads(4 * words), stream, from, index, to, x.length(), words);
  }
}

/// y[n] += the rows of token n in the order of the list; one block a token.
template <int kPack, class T>
__global__ void combine_token(const T* rows, Index row_count, const std::int32_t* position, Index slots, const std::int32_t* order,
                              const std::int32_t* offsets, float* y, Index cols) {
  const Index token = blockIdx.x;
  const Index first = offsets[token];
  const Index last = offsets[token + 1];
  require(first >= 0 && first <= last && last <= slots, "the offsets of a token name slots that are not there");
  for (Index p = threadIdx.x; p < cols / kPack; p += blockDim.x) {
    float sum[kPack] = {};
    bool some = false;
    for (Index s = first; s < last; ++s) {
      const Index slot = order[s];
      require(slot >= 0 && slot < slots, "a slot that a token lists is not there");
      const Index at = position[slot];
      require(at >= -1 && at < row_count, "the position of a slot is outside of the rows");
      if (at < 0) continue;
      const auto row = load_pack<kPack>(rows + at * cols, p);
      for (int i = 0; i < kPack; ++i) sum[i] = some ? sum[i] + static_cast<float>(row.values[i]) : static_cast<float>(row.values[i]);
      some = true;
    }
    if (!some) return;
    auto into = load_pack<kPack>(y + token * cols, p);
    for (int i = 0; i < kPack; ++i) into.values[i] += sum[i];
    store_pack(y + token * cols, p, into);
  }
}

__global__ void scatter_value(const float* from, const std::int32_t* index, float* to, Index count, Index places) {
  if (item() >= count) return;
  const Index place = index[item()];
  require(place >= 0 && place < places, "a place to scatter to is outside of the values");
  to[place] = from[item()];
}

}  // namespace

void group_by(Cuda, Stream& stream, const Tensor& key, const Tensor& order, const Tensor& offsets) {
  const Index count = key.elements();
  const Index keys = offsets.elements() - 1;
  const auto* const k = on_device<std::int32_t>(key);
  auto* const sorted = on_device<std::int32_t>(order);
  if (count == 0) return stream.set(offsets.raw(), 0, offsets.bytes());
  int passes = 1;
  while ((keys >> (kDigitBits * passes)) > 0) ++passes;
  const unsigned chunks = blocks_for(count, kChunk);
  const Tensor counts(stream, {kDigits, chunks}, DType::i32);
  const Tensor other = passes > 1 ? Tensor(stream, {count}, DType::i32) : Tensor();
  const std::int32_t* from = nullptr;
  for (int pass = 0; pass < passes; ++pass) {
    // The last pass writes `order`, those before it take turns.
    std::int32_t* const to = (passes - pass) % 2 == 1 ? sorted : on_device<std::int32_t>(other);
    const int shift = pass * kDigitBits;
    launch(count_digits, chunks, kDigits, stream, k, from, count, keys, shift, on_device<std::int32_t>(counts));
    launch(sum_before, 1, kBlockThreads, stream, on_device<std::int32_t>(counts), counts.elements());
    launch(place_entries, chunks, kDigits, stream, k, from, count, keys, shift, on_device<std::int32_t>(counts), to);
    from = to;
  }
  launch(find_offsets, blocks_for(keys + 1), kBlockThreads, stream, k, sorted, count, keys, on_device<std::int32_t>(offsets));
}

void gather_rows(Cuda, Stream& stream, const Tensor& x, const Tensor& index, const Tensor& y) {
  const Index count = index.elements();
  if (count == 0) return;
  check(x.device() == stream.device() && y.device() == stream.device(), "rows on the GPU are gathered from and to tensors there");
  const auto* const from = on_device<std::int32_t>(index);
  const auto width = static_cast<std::size_t>(y.bytes()) / static_cast<std::size_t>(count);
  const auto whole = [&](std::size_t word) {
    return width % word == 0 && reinterpret_cast<std::uintptr_t>(x.raw()) % word == 0 &&
           reinterpret_cast<std::uintptr_t>(y.raw()) % word == 0;
  };
  if (width == 0) return;
  if (whole(16)) return gather_words<uint4>(stream, x, from, y, static_cast<Index>(width / 16));
  if (whole(8)) return gather_words<std::uint64_t>(stream, x, from, y, static_cast<Index>(width / 8));
  if (whole(4)) return gather_words<std::uint32_t>(stream, x, from, y, static_cast<Index>(width / 4));
  gather_words<std::uint16_t>(stream, x, from, y, static_cast<Index>(width / 2));
}

void combine_rows(Cuda, Stream& stream, const Tensor& rows, const Tensor& position, const Grouped& by_token, const Tensor& y) {
  with_float_type(rows.dtype(), [&](auto type) {
    using T = decltype(type);
    const auto body = [&](auto pack) {
      launch(combine_token<pack(), T>, blocks_for(y.length(), 1), row_threads(y.cols()), stream, on_device<T>(rows), rows.length(),
             on_device<std::int32_t>(position), position.elements(), on_device<std::int32_t>(by_token.order),
             on_device<std::int32_t>(by_token.offsets), on_device<float>(y), y.cols());
    };
    with_packs(y.cols(), body, rows, y);
  });
}

void scatter_values(Cuda, Stream& stream, const Tensor& from, const Tensor& index, const Tensor& to) {
  launch(scatter_value, blocks_for(from.elements()), kBlockThreads, stream, on_device<float>(from), on_device<std::int32_t>(index),
         on_device<float>(to), from.elements(), to.elements());
}

}  // namespace yard::ops::kernels
