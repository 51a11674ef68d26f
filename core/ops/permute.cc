#include "core/ops/permute.h"

#include <cstring>
#include <limits>
#include <vector>

#include "core/ops/loops.h"

namespace yard::ops {
namespace {

void check_i32(const Tensor& x, const char* what) { check(x.dtype() == DType::i32, what, " is i32, got ", name_of(x.dtype())); }

}  // namespace

Grouped group_by(Stream& stream, const Tensor& key, Index keys) {
  check_i32(key, "the key of group_by");
  check(keys >= 0 && keys < std::numeric_limits<std::int32_t>::max() && key.elements() <= std::numeric_limits<std::int32_t>::max(),
        "group_by counts entries and keys below 2^31, got ", key.elements(), " entries and ", keys, " keys");
  Grouped result{Tensor(stream, {key.elements()}, DType::i32), Tensor(stream, {keys + 1}, DType::i32)};
  dispatch(stream.device(), [&](auto on) { kernels::group_by(on, stream, key, result.order, result.offsets); });
  return result;
}

Tensor gather_rows(Stream& stream, const Tensor& x, const Tensor& index) {
  const Index count = index.elements();
  const Tensor y(stream, x.shape().rank() == 1 ? Shape{count} : Shape{count, x.cols()}, x.dtype());
  gather_rows(stream, x, index, y);
  return y;
}

void gather_rows(Stream& stream, const Tensor& x, const Tensor& index, const Tensor& y) {
  check_i32(index, "the index of gather_rows");
  check(x.shape().rank() == 1 || x.shape().rank() == 2, "gather_rows takes a vector or a matrix, got ", x.shape());
  check(y.length() == index.elements() && y.dtype() == x.dtype() && y.shape().rank() == x.shape().rank() &&
            (x.shape().rank() == 1 || y.cols() == x.cols()),
        "", index.elements(), " rows of ", name_of(x.dtype()), " ", x.shape(), " do not fit into ", name_of(y.dtype()), " ", y.shape());
  dispatch(stream.device(), [&](auto on) { kernels::gather_rows(on, stream, x, index, y); });
}

void combine_rows(Stream& stream, const Tensor& rows, const Tensor& position, const Grouped& by_token, const Tensor& y) {
  check_i32(position, "the position of combine_rows");
  check_i32(by_token.order, "the order of slots by token");
  check_i32(by_token.offsets, "the offsets of slots by token");
  check(y.dtype() == DType::f32 && y.shape().rank() == 2, "combine_rows adds to an f32 matrix, got ", name_of(y.dtype()), " ", y.shape());
  check(rows.shape().rank() == 2 && rows.cols() == y.cols(), "rows of ", y.cols(), " columns are combined, got ", rows.shape());
  check(by_token.order.elements() == position.elements(), "slots are ordered by token alike: ", position.elements(),
        " positions, order of ", by_token.order.elements());
  check(by_token.offsets.elements() == y.length() + 1, "the slots of ", y.length(), " tokens need one offset more than tokens, got ",
        by_token.offsets.elements());
  dispatch(stream.device(), [&](auto on) { kernels::combine_rows(on, stream, rows, position, by_token, y); });
}

void scatter_values(Stream& stream, const Tensor& from, const Tensor& index, const Tensor& to) {
  check_i32(index, "the index of scatter_values");
  check(from.dtype() == DType::f32 && to.dtype() == DType::f32, "scatter_values moves f32, got ", name_of(from.dtype()), " and ",
        name_of(to.dtype()));
  check(from.elements() == index.elements(), "scatter_values needs an index for each value, got ", index.elements(), " for ",
        from.elements());
  dispatch(stream.device(), [&](auto on) { kernels::scatter_values(on, stream, from, index, to); });
}

namespace kernels {
namespace {

/// Adds into y the rows of one token in the order of the list, a strip of columns at a time so that the sum stays in the nearest cache.
template <class T>
void combine_token(const T* rows, const std::int32_t* position, const std::int32_t* slots, Index count, float* y, Index cols) {
  constexpr Index kStrip = 1024;
  float sum[kStrip];
  for (Index start = 0; start < cols; start += kStrip) {
    const Index width = std::min(kStrip, cols - start);
    bool any = false;
    for (Index s = 0; s < count; ++s) {
      const Index at = position[slots[s]];
      if (at < 0) continue;
      const T* row = rows + at * cols + start;
      if (any) {
#pragma omp simd
        for (Index c = 0; c < width; ++c) sum[c] += static_cast<float>(row[c]);
      } else {
#pragma omp simd
        for (Index c = 0; c < width; ++c) sum[c] = static_cast<float>(row[c]);
        any = true;
      }
    }
    if (!any) return;
#pragma omp simd
    for (Index c = 0; c < width; ++c) y[start + c] += sum[c];
  }
}

/// Copies rows of `width` bytes.
void gather_bytes(const std::byte* x, const std::int32_t* index, std::byte* y, Index count, Index width) {
  parallel_ranges(count, 8 + width / 4, 1, [=](Index first, Index last) {
    for (Index i = first; i < last; ++i) std::memcpy(y + i * width, x + index[i] * width, static_cast<std::size_t>(width));
  });
}

template <class T>
void gather_words(const void* x, const std::int32_t* index, void* y, Index count) {
  const auto* from = static_cast<const T*>(x);
  auto* to = static_cast<T*>(y);
  parallel_ranges(count, 2, 64, [=](Index first, Index last) {
    for (Index i = first; i < last; ++i) to[i] = from[index[i]];
  });
}

}  // namespace

void group_by(Cpu, Stream&, const Tensor& key, const Tensor& order, const Tensor& offsets) {
  const Index count = key.elements();
  const Index keys = offsets.elements() - 1;
  check_range(key, -1, keys, "the key of entry");
  const std::int32_t* k = key.data<std::int32_t>();
  std::int32_t* sorted = order.data<std::int32_t>();
  std::int32_t* offset = offsets.data<std::int32_t>();
  // Each chunk of the entries counts its keys; from the counts follows where each chunk puts each of its keys. The place of -1 is after
  // all keys, which spares the loops a branch. The result of a stable sort is one, however many chunks there are.
  const Index places = keys + 1;
  const Index chunks = std::max<Index>(1, std::min<Index>(omp_get_max_threads(), count / std::max<Index>(kParallelWork, 4 * places)));
  std::vector<std::int32_t> next(static_cast<std::size_t>(chunks * places));
  const auto place_of = [=](std::int32_t value) { return value < 0 ? keys : Index{value}; };
  const auto for_chunks = [&](const auto& body) {
#pragma omp parallel for schedule(static, 1) if (chunks > 1)
    for (Index chunk = 0; chunk < chunks; ++chunk) body(next.data() + chunk * places, count * chunk / chunks, count * (chunk + 1) / chunks);
  };
  for_chunks([&](std::int32_t* counts, Index first, Index last) {
    for (Index i = first; i < last; ++i) ++counts[place_of(k[i])];
  });
  std::int32_t total = 0;
  for (Index place = 0; place < places; ++place) {
    offset[place] = total;
    for (Index chunk = 0; chunk < chunks; ++chunk) {
      total += std::exchange(next[static_cast<std::size_t>(chunk * places + place)], total);
    }
  }
  for_chunks([&](std::int32_t* places_left, Index first, Index last) {
    for (Index i = first; i < last; ++i) sorted[places_left[place_of(k[i])]++] = static_cast<std::int32_t>(i);
  });
}

void gather_rows(Cpu, Stream&, const Tensor& x, const Tensor& index, const Tensor& y) {
  check_range(index, 0, x.length(), "the row to gather at");
  const std::int32_t* from = index.data<std::int32_t>();
  const Index count = index.elements();
  if (count == 0) return;
  const Index width = static_cast<Index>(y.bytes()) / count;
  if (width == 4) return gather_words<std::uint32_t>(x.raw(), from, y.raw(), count);
  if (width == 8) return gather_words<std::uint64_t>(x.raw(), from, y.raw(), count);
  gather_bytes(static_cast<const std::byte*>(x.raw()), from, static_cast<std::byte*>(y.raw()), count, width);
}

void combine_rows(Cpu, Stream&, const Tensor& rows, const Tensor& position, const Grouped& by_token, const Tensor& y) {
  check_range(position, -1, rows.length(), "the position of slot");
  const Index tokens = y.length();
  const Index cols = y.cols();
  const std::int32_t* slots = by_token.order.data<std::int32_t>();
  const std::int32_t* offset = by_token.offsets.data<std::int32_t>();
  const Index listed = offset[tokens];
  check(listed <= by_token.order.elements(), "the offsets name ", listed, " slots where only ", by_token.order.elements(), " are");
  check_range(by_token.order.row_range(0, listed), 0, position.elements(), "the slot listed at");
  const std::int32_t* places = position.data<std::int32_t>();
  float* into = y.data<float>();
  with_float_type(rows.dtype(), [&](auto type) {
    const auto* from = rows.data<decltype(type)>();
    const Index cost = tokens == 0 ? 0 : cols + 2 * cols * listed / tokens;
    parallel_ranges(tokens, cost, 1, [=](Index first, Index last) {
      for (Index n = first; n < last; ++n) {
        combine_token(from, places, slots + offset[n], offset[n + 1] - offset[n], into + n * cols, cols);
      }
    });
  });
}

void scatter_values(Cpu, Stream&, const Tensor& from, const Tensor& index, const Tensor& to) {
  check_range(index, 0, to.elements(), "the place to scatter to at");
  const float* values = from.data<float>();
  const std::int32_t* place = index.data<std::int32_t>();
  float* into = to.data<float>();
  for (Index i = 0; i < from.elements(); ++i) into[place[i]] = values[i];
}

}  // namespace kernels

}  // namespace yard::ops
