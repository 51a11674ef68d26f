#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace yard {

/// Large blocks of ordinary memory, cut from long mapped stretches and joined again when they come back: what one part of a step frees
/// serves the next, whatever its sizes, and pages once touched stay. The smallest free piece that is large enough is cut, the lowest of
/// equal ones, so that equal requests in equal order give equal addresses. Not safe to use from several threads at once.
class Stretches {
 public:
  Stretches() = default;
  Stretches(const Stretches&) = delete;
  Stretches& operator=(const Stretches&) = delete;
  ~Stretches();

  /// A block aligned to a page; throws std::bad_alloc.
  void* take(std::size_t bytes);
  /// The same block and size.
  void give_back(void* block, std::size_t bytes);

  /// What a block of so many bytes takes: whole pages.
  static std::size_t taken(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

 private:
  static constexpr std::size_t kPage = 4096;
  using Pieces = std::map<std::byte*, std::size_t>;

  void add(std::byte* piece, std::size_t bytes);
  void remove(Pieces::iterator piece);
  void map_more(std::size_t bytes);

  Pieces free_;                                           // by address; no two of them touch
  std::set<std::pair<std::size_t, std::byte*>> by_size_;  // the same
  std::vector<std::pair<void*, std::size_t>> mapped_;
};

}  // namespace yard
