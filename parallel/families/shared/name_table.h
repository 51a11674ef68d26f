#pragma once

#include <string>
#include <vector>

#include "core/tensor/tensor.h"

namespace yard {

/// Where the values of one of our tensors are in a file: in item `item` of the first axis of `tensor` (-1: in all of it), as part `part` of
/// `parts` equal ones.
struct StoredPart {
  std::string tensor;
  Index item = -1, part = 0, parts = 1;
};

/// A family's names of tensors beside ours, for reading and writing. In both, {l} and {e} stand for the layer's and the expert's number.
/// A tensor that no row matches has the same name in both.
class NameTable {
 public:
  struct Row {
    const char* ours;
    const char* theirs;
  };
  /// A further place where files may have a tensor: all experts of a layer as one tensor, for instance. Read only.
  struct Alternative {
    const char* ours;
    const char* theirs;
    bool by_expert = false;
    Index part = 0, parts = 1;
  };
  NameTable() = default;
  explicit NameTable(std::vector<Row> rows, std::vector<Alternative> alternatives = {})
      : rows_(std::move(rows)), alternatives_(std::move(alternatives)) {}

  /// The name in the family's files, which is also the one written.
  std::string stored(const std::string& ours) const;
  /// Every place where a file may have the tensor, the one that is written first.
  std::vector<StoredPart> places(const std::string& ours) const;

 private:
  std::vector<Row> rows_;
  std::vector<Alternative> alternatives_;
};

}  // namespace yard
