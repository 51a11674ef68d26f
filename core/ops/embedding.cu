#include "core/ops/embedding.h"

#include "core/ops/gpu.h"
#include "core/ops/permute.h"

namespace yard::ops::kernels {
namespace {

/// One block a token.
template <int kPack, class T, class Y>
__global__ void embed_row(const std::int32_t* ids, const T* table, float scale, Y* y, Index vocabulary, Index cols) {
  const Index row = blockIdx.x;
  const Index id = ids[row];
  require(id >= -1 && id < vocabulary, "a token id is outside of the embedding table");
  for (Index p = threadIdx.x; p < cols / kPack; p += blockDim.x) {
    Pack<Y, kPack> out;
    if (id < 0) {
      for (int i = 0; i < kPack; ++i) out.values[i] = 0.0F;
    } else {
      const auto in = load_pack<kPack>(table + id * cols, p);
      for (int i = 0; i < kPack; ++i) out.values[i] = scale * static_cast<float>(in.values[i]);
    }
    store_pack(y + row * cols, p, out);
  }
}

/// dtable[id] += scale * dy of the id's tokens, in their order; one block an id.
template <int kPack, class T>
__global__ void add_token_gradients(const std::int32_t* order, const std::int32_t* offsets, const T* dy, float scale, float* dtable,
                                    Index cols) {
  const Index id = blockIdx.x;
  const Index first = offsets[id];
  const Index last = offsets[id + 1];
  if (first == last) return;
  for (Index p = threadIdx.x; p < cols / kPack; p += blockDim.x) {
    auto sum = load_pack<kPack>(dtable + id * cols, p);
    for (Index s = first; s < last; ++s) {
      const auto gradient = load_pack<kPack>(dy + static_cast<Index>(order[s]) * cols, p);
      for (int i = 0; i < kPack; ++i) sum.values[i] += scale * static_cast<float>(gradient.values[i]);
    }
    store_pack(dtable + id * cols, p, sum);
  }
}

}  // namespace

void embedding(Cuda, Stream& stream, const Tensor& ids, const Tensor& table, float scale, const Tensor& y) {
  with_float_type(table.dtype(), [&](auto in) {
    with_float_type(y.dtype(), [&](auto out) {
      using T = decltype(in);
      using Y = decltype(out);
      const auto body = [&](auto pack) {
        launch(embed_row<pack(), T, Y>, blocks_for(ids.elements(), 1), row_threads(table.cols()), stream, on_device<std::int32_t>(ids),
               on_device<T>(table), scale, on_device<Y>(y), table.length(), table.cols());
      };
      with_packs(table.cols(), body, table, y);
    });
  });
}

void embedding_backward(Cuda on, Stream& stream, const Tensor& ids, const Tensor& dy, float scale, const Tensor& dtable) {
  const Grouped by_id{Tensor(stream, {ids.elements()}, DType::i32), Tensor(stream, {dtable.length() + 1}, DType::i32)};
  group_by(on, stream, ids, by_id.order, by_id.offsets);
  with_float_type(dy.dtype(), [&](auto type) {
    using T = decltype(type);
    const auto body = [&](auto pack) {
      launch(add_token_gradients<pack(), T>, blocks_for(dtable.length(), 1), row_threads(dtable.cols()), stream,
             on_device<std::int32_t>(by_id.order), on_device<std::int32_t>(by_id.offsets), on_device<T>(dy), scale,
             on_device<float>(dtable), dtable.cols());
    };
    with_packs(dtable.cols(), body, dy, dtable);
  });
}

}  // namespace yard::ops::kernels
