#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/io/safetensors.h"
#include "parallel/sharded_adamw.h"

namespace yard {

/// A tensor on its way into a file, which lists it as `entry`.
struct FileTensor {
  SafetensorsEntry entry;
  Tensor values;
  bool own = false;  // whether nobody else holds the values, so that training cannot change them
};
using FileContents = std::vector<FileTensor>;

/// Elements [first, first + count) of a logical tensor, and where they begin in a rank's share of buffer `buffer`.
struct OwnPiece {
  std::string name;
  std::vector<Index> shape;  // of the whole tensor
  Index first = 0, count = 0;
  Index buffer = 0, in_share = 0;
  bool whole() const noexcept;
  /// "exp_avg." + name, and "::first" unless it is the whole.
  std::string key(const std::string& kind) const;
};

/// The pieces of logical tensors that make up entries [first, first + count) of a buffer.
std::vector<OwnPiece> pieces_of(const FlatBuffer&, Index buffer, Index first, Index count);

/// The logical tensors that this rank writes: those of its experts and its part of what replicas hold too, with equal bytes as near as may
/// be. With `wide` also those of bf16 buffers in f32, from the masters: the rank with the largest part of a tensor collects the others,
/// one tensor at a time. Collective where `wide`.
FileContents model_contents(Context&, Mesh&, ParameterStore&, const std::vector<State*>& states, ShardedAdamW&, bool wide);

/// AdamW's moments, and masters where they are not the values, of this rank's shares; `pieces` gets where they are of each parameter.
FileContents optimizer_contents(Mesh&, ParameterStore&, ShardedAdamW&, std::vector<OwnPiece>& pieces);

/// Splits contents into files of at most `largest` bytes each, unless one tensor is larger; wider types first, as alignment wants it.
std::vector<FileContents> split_into_files(FileContents, Index largest);

}  // namespace yard
