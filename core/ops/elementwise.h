#pragma once

#include "core/tensor/tensor.h"

namespace yard::ops {

/// Sets every value to `value`.                                    x: any floating dtype
void fill(Stream&, const Tensor& x, float value);
/// a + b in f32, rounded once to `out`.                            a, b: the same shape, f32 or bf16 each
Tensor add(Stream&, const Tensor& a, const Tensor& b, DType out);
/// into += x, in f32, rounded once to into's dtype.
void accumulate(Stream&, const Tensor& x, const Tensor& into);
/// x * factor in f32, rounded once to `out`.
Tensor scaled(Stream&, const Tensor& x, float factor, DType out);
/// x * gate, one factor a row.                                     x: (N, C)  gate: (N) f32  result: (N, C) `out`
Tensor scale_rows(Stream&, const Tensor& x, const Tensor& gate, DType out);
/// The inner product of each pair of rows, f32.                    a, b: (N, C)  result: (N) f32
Tensor row_dot(Stream&, const Tensor& a, const Tensor& b);
/// A copy in another floating dtype; x itself when it has that dtype already.
Tensor cast(Stream&, const Tensor& x, DType to);
/// Copies values into `to`, rounding where dtypes differ.          from, to: the same number of elements
void copy_into(Stream&, const Tensor& from, const Tensor& to);
/// Columns [first, first + count) of every row.                    x: (N, C) f32 or bf16  result: (N, count) in x's dtype
Tensor columns(Stream&, const Tensor& x, Index first, Index count);
/// The inverse: overwrites columns [first, first + count) of into.  x: (N, count)  into: (N, C), the same dtype
void set_columns(Stream&, const Tensor& x, const Tensor& into, Index first);
/// into += the sum of squares, in f64 and an order that does not depend on the threads.                 x: f32  into: (1) f64
void add_squared_norm(Stream&, const Tensor& x, const Tensor& into);
/// into += factor times the sum, in f64 and an order that does not depend on the threads.               x: f32  into: (1) f64
void add_sum(Stream&, const Tensor& x, double factor, const Tensor& into);
/// Whether every value is finite.                                            result: (1) i32, 1 or 0
Tensor all_finite(Stream&, const Tensor& x);
/// Inverted dropout: keeps each value with probability 1 - rate, times 1/(1 - rate). Value (i, c) is kept by draw c of the generator of
/// key_of(key, row_key[i]), so that it does not depend on the rank.           x: (N, C)  row_key: (N) i64
Tensor dropout(Stream&, const Tensor& x, float rate, std::uint64_t key, const Tensor& row_key, DType out);

namespace kernels {
void fill(Cpu, Stream&, const Tensor& x, float value);
void add(Cpu, Stream&, const Tensor& a, const Tensor& b, const Tensor& y);
void scaled(Cpu, Stream&, const Tensor& x, float factor, const Tensor& y);
void scale_rows(Cpu, Stream&, const Tensor& x, const Tensor& gate, const Tensor& y);
void row_dot(Cpu, Stream&, const Tensor& a, const Tensor& b, const Tensor& y);
void copy_into(Cpu, Stream&, const Tensor& from, const Tensor& to);
/// Copies columns [from_first, from_first + count) of every row to columns [to_first, to_first + count).
void copy_columns(Cpu, Stream&, const Tensor& from, Index from_first, const Tensor& to, Index to_first, Index count);
void add_squared_norm(Cpu, Stream&, const Tensor& x, const Tensor& into);
void add_sum(Cpu, Stream&, const Tensor& x, double factor, const Tensor& into);
void all_finite(Cpu, Stream&, const Tensor& x, const Tensor& y);
void dropout(Cpu, Stream&, const Tensor& x, float rate, std::uint64_t key, const Tensor& row_key, const Tensor& y);
void fill(Cuda, Stream&, const Tensor& x, float value);
void add(Cuda, Stream&, const Tensor& a, const Tensor& b, const Tensor& y);
void scaled(Cuda, Stream&, const Tensor& x, float factor, const Tensor& y);
void scale_rows(Cuda, Stream&, const Tensor& x, const Tensor& gate, const Tensor& y);
void row_dot(Cuda, Stream&, const Tensor& a, const Tensor& b, const Tensor& y);
void copy_into(Cuda, Stream&, const Tensor& from, const Tensor& to);
void copy_columns(Cuda, Stream&, const Tensor& from, Index from_first, const Tensor& to, Index to_first, Index count);
void add_squared_norm(Cuda, Stream&, const Tensor& x, const Tensor& into);
void add_sum(Cuda, Stream&, const Tensor& x, double factor, const Tensor& into);
void all_finite(Cuda, Stream&, const Tensor& x, const Tensor& y);
void dropout(Cuda, Stream&, const Tensor& x, float rate, std::uint64_t key, const Tensor& row_key, const Tensor& y);
}  // namespace kernels

}  // namespace yard::ops
