#pragma once

#include <string>
#include <vector>

#include "core/tensor/tensor.h"

namespace yard {

/// The location of one of our tensors in a file: entry `item` of the first axis of `tensor` (-1: the whole tensor), and of that the part
/// `part` of `parts` equal parts.
struct StoredPart {
  std::string tensor;
  Index item = -1, part = 0, parts = 1;
};

/// Maps our tensor names to a family's, for reading and writing. {l} and {e} stand for the numbers of the layer and the expert. A tensor
/// that no row matches has the same name in both.
class NameTable {
 public:
  struct Row {
    const char* ours;
    const char* theirs;
  };
  /// An alternative location of a tensor, for instance in one tensor of all experts of a layer. For reading only.
  struct Alternative {
    const char* ours;
    const char* theirs;
    bool by_expert = false;
    Index part = 0, parts = 1;
  };
  NameTable() = default;
  explicit NameTable(std::vector<Row> rows, std::vector<Alternative> alternatives = {})
      : rows_(std::move(rows)), alternatives_(std::move(alternatives)) {}

  /// The name in the family's files, for writing.
  std::string stored(const std::string& ours) const;
  /// Every location where a file may have the tensor; the first is where it is written.
  std::vector<StoredPart> places(const std::string& ours) const;

 private:
  std::vector<Row> rows_;
  std::vector<Alternative> alternatives_;
};

}  // namespace yard
