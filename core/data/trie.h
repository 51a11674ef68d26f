#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/data/flat_map.h"

namespace yard {

/// Strings with a number each, walked byte by byte.
class Trie {
 public:
  static constexpr std::int32_t kRoot = 0;

  void insert(std::string_view text, std::int32_t value) {
    std::int32_t node = kRoot;
    for (const char c : text) {
      std::int32_t next = step(node, c);
      if (next < 0) {
        next = static_cast<std::int32_t>(values_.size());
        values_.push_back(-1);
        edges_.insert(edge(node, c), next);
      }
      node = next;
    }
    values_[static_cast<std::size_t>(node)] = value;
  }

  /// The node after one more byte, or -1.
  std::int32_t step(std::int32_t node, char c) const { return edges_.find(edge(node, c)); }
  /// The number of the string that ends at a node, or -1.
  std::int32_t value(std::int32_t node) const { return values_[static_cast<std::size_t>(node)]; }
  bool empty() const noexcept { return values_.size() == 1; }

  /// Length of the longest string that `text` begins with, 0 when there is none; sets its number.
  std::size_t longest_prefix(std::string_view text, std::int32_t& number) const {
    std::size_t longest = 0;
    std::int32_t node = kRoot;
    for (std::size_t i = 0; i < text.size() && (node = step(node, text[i])) >= 0; ++i) {
      if (value(node) >= 0) {
        longest = i + 1;
        number = value(node);
      }
    }
    return longest;
  }

 private:
  static std::uint64_t edge(std::int32_t node, char c) { return (static_cast<std::uint64_t>(node) << 8) | static_cast<unsigned char>(c); }
  FlatMap edges_;
  std::vector<std::int32_t> values_ = {-1};
};

}  // namespace yard
