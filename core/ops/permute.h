#pragma once

#include "core/tensor/tensor.h"

namespace yard::ops {

/// A stable sort of small keys by counting: order[j] is the entry that comes j-th. Equal keys keep their order; entries with key -1 come
/// last, beyond offsets[keys].                                                       key: (S) i32 in [-1, keys)
struct Grouped {
  Tensor order;    // (S) i32
  Tensor offsets;  // (keys + 1) i32: the entries of key k are order[offsets[k], offsets[k + 1])
};
Grouped group_by(Stream&, const Tensor& key, Index keys);

/// y[i] = x[index[i]]; an index outside of x throws.               x: (N, C) or (N), any dtype  index: (M) i32  y: (M, C) or (M)
Tensor gather_rows(Stream&, const Tensor& x, const Tensor& index);
void gather_rows(Stream&, const Tensor& x, const Tensor& index, const Tensor& y);

/// y[n] += sum, in the order of the list, of rows[position[s]] over the slots s of token n; slots with position -1 hold nothing. f32 sums.
/// The transpose of gathering: the slots of token n are by_token.order[by_token.offsets[n], by_token.offsets[n + 1]).
///                                                                 rows: (R, C) f32 or bf16  position: (S) i32  y: (N, C) f32
void combine_rows(Stream&, const Tensor& rows, const Tensor& position, const Grouped& by_token, const Tensor& y);

/// to[index[i]] = from[i], f32; an index outside of `to` throws.    from: (M)  index: (M) i32, no two equal  to: (S)
void scatter_values(Stream&, const Tensor& from, const Tensor& index, const Tensor& to);

namespace kernels {
void group_by(Cpu, Stream&, const Tensor& key, const Tensor& order, const Tensor& offsets);
void gather_rows(Cpu, Stream&, const Tensor& x, const Tensor& index, const Tensor& y);
void combine_rows(Cpu, Stream&, const Tensor& rows, const Tensor& position, const Grouped& by_token, const Tensor& y);
void scatter_values(Cpu, Stream&, const Tensor& from, const Tensor& index, const Tensor& to);
void group_by(Cuda, Stream&, const Tensor& key, const Tensor& order, const Tensor& offsets);
void gather_rows(Cuda, Stream&, const Tensor& x, const Tensor& index, const Tensor& y);
void combine_rows(Cuda, Stream&, const Tensor& rows, const Tensor& position, const Grouped& by_token, const Tensor& y);
void scatter_values(Cuda, Stream&, const Tensor& from, const Tensor& index, const Tensor& to);
}  // namespace kernels

}  // namespace yard::ops
