#pragma once

#include "core/tensor/tensor.h"

namespace yard::ops {

/// Row i of the result is scale * table[ids[i]], rounded once to `out`; an id of -1 (padding) gives zeros. An id outside of the table
/// throws.
///                                                                 ids: (N) i32  table: (V, C) f32 or bf16  result: (N, C)
Tensor embedding(Stream&, const Tensor& ids, const Tensor& table, float scale, DType out);
/// dtable[ids[i]] += scale * dy[i], in row order whatever the threads.            dy: (N, C)  dtable: (V, C) f32
void embedding_backward(Stream&, const Tensor& ids, const Tensor& dy, float scale, const Tensor& dtable);

namespace kernels {
void embedding(Cpu, Stream&, const Tensor& ids, const Tensor& table, float scale, const Tensor& y);
void embedding_backward(Cpu, Stream&, const Tensor& ids, const Tensor& dy, float scale, const Tensor& dtable);
void embedding(Cuda, Stream&, const Tensor& ids, const Tensor& table, float scale, const Tensor& y);
void embedding_backward(Cuda, Stream&, const Tensor& ids, const Tensor& dy, float scale, const Tensor& dtable);
}  // namespace kernels

}  // namespace yard::ops
