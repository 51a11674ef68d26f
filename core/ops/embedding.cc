#include "core/ops/embedding.h"

#include "core/ops/loops.h"

namespace yard::ops {
namespace {

void check_ids(const Tensor& ids, const Tensor& table) {
  check(ids.dtype() == DType::i32, "token ids are i32, got ", name_of(ids.dtype()));
  check(table.shape().rank() == 2, "an embedding table is a matrix (vocabulary, width), got ", table.shape());
}

}  // namespace

Tensor embedding(Stream& stream, const Tensor& ids, const Tensor& table, float scale, DType out) {
  check_ids(ids, table);
  Tensor y(stream, {ids.elements(), table.cols()}, out);
  dispatch(stream.device(), [&](auto on) { kernels::embedding(on, stream, ids, table, scale, y); });
  return y;
}

void embedding_backward(Stream& stream, const Tensor& ids, const Tensor& dy, float scale, const Tensor& dtable) {
  check_ids(ids, dtable);
  check(dtable.dtype() == DType::f32, "the gradient of an embedding table is f32, got ", name_of(dtable.dtype()));
  check(dy.shape() == Shape({ids.elements(), dtable.cols()}), "the gradient of ", ids.elements(), " embedded tokens of width ",
        dtable.cols(), " got the shape ", dy.shape());
  dispatch(stream.device(), [&](auto on) { kernels::embedding_backward(on, stream, ids, dy, scale, dtable); });
}

namespace kernels {

void embedding(Cpu, Stream&, const Tensor& ids, const Tensor& table, float scale, const Tensor& y) {
  check_range(ids, -1, table.length(), "token id");
  const std::int32_t* id = ids.data<std::int32_t>();
  const Index cols = table.cols();
  with_float_type(table.dtype(), [&](auto in) {
    with_float_type(y.dtype(), [&](auto out) {
      const auto* rows = table.data<decltype(in)>();
      auto* to = y.data<decltype(out)>();
      parallel_ranges(ids.elements(), cols, 1, [=](Index first, Index last) {
        for (Index row = first; row < last; ++row) {
          auto* result = to + row * cols;
          if (id[row] < 0) {
            std::fill_n(result, cols, decltype(out)(0.0F));
            continue;
          }
          const auto* values = rows + id[row] * cols;
#pragma omp simd
          for (Index c = 0; c < cols; ++c) result[c] = scale * static_cast<float>(values[c]);
        }
      });
    });
  });
}

void embedding_backward(Cpu, Stream&, const Tensor& ids, const Tensor& dy, float scale, const Tensor& dtable) {
  check_range(ids, -1, dtable.length(), "token id");
  const std::int32_t* id = ids.data<std::int32_t>();
  const Index count = ids.elements();
  const Index cols = dtable.cols();
  float* into = dtable.data<float>();
  with_float_type(dy.dtype(), [&](auto type) {
    const auto* from = dy.data<decltype(type)>();
    // Threads share out columns, not rows: rows may meet in one row of the table, and must do so in order.
    parallel_ranges(cols, count, 64, [=](Index first, Index last) {
      for (Index row = 0; row < count; ++row) {
        if (id[row] < 0) continue;
        const auto* values = from + row * cols;
        float* sum = into + id[row] * cols;
#pragma omp simd
        for (Index c = first; c < last; ++c) sum[c] += scale * static_cast<float>(values[c]);
      }
    });
  });
}

}  // namespace kernels

}  // namespace yard::ops
