#include "core/device/stretches.h"

#include <sys/mman.h>

#include <algorithm>
#include <iterator>
#include <new>

#include "core/device/poison.h"

namespace yard {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kLeast = std::size_t{64} << 20;  // of a stretch: pages that nobody touches cost nothing

}  // namespace

Stretches::~Stretches() {
  for (const auto& [stretch, bytes] : mapped_) {
    allow(stretch, bytes);  // other memory may come to lie here
    munmap(stretch, bytes);
  }
}

void* Stretches::take(std::size_t bytes) {
  const std::size_t size = taken(bytes);
  auto best = by_size_.lower_bound({size, nullptr});
  if (best == by_size_.end()) {
    map_more(size);
    best = by_size_.lower_bound({size, nullptr});
  }
  const auto [whole, block] = *best;
  remove(free_.find(block));
  if (whole > size) add(block + size, whole - size);
  return block;
}

void Stretches::give_back(void* block, std::size_t bytes) {
  auto* first = static_cast<std::byte*>(block);
  std::size_t size = taken(bytes);
  const auto after = free_.lower_bound(first);
  if (after != free_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == first) {
      first = before->first;
      size += before->second;
      remove(before);
    }
  }
  if (after != free_.end() && first + size == after->first) {
    size += after->second;
    remove(after);
  }
  add(first, size);
}

void Stretches::add(std::byte* piece, std::size_t bytes) {
  free_.emplace(piece, bytes);
  by_size_.emplace(bytes, piece);
}

void Stretches::remove(Pieces::iterator piece) {
  by_size_.erase({piece->second, piece->first});
  free_.erase(piece);
}

/// Stretches grow with what there is, so that they stay few; each begins and ends at a huge page.
void Stretches::map_more(std::size_t bytes) {
  std::size_t all = 0;
  for (const auto& [stretch, size] : mapped_) all += size;
  for (std::size_t wanted : {std::max({bytes, all, kLeast}), bytes}) {
    wanted = (wanted + kHugePage - 1) / kHugePage * kHugePage;
    const std::size_t room = wanted + kHugePage;
    void* const mapping = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) continue;
    mapped_.emplace_back(mapping, room);
    const auto address = reinterpret_cast<std::uintptr_t>(mapping);
    auto* const first = static_cast<std::byte*>(mapping) + (kHugePage - address % kHugePage) % kHugePage;
    madvise(first, wanted, MADV_HUGEPAGE);  // advice only: fewer page faults where it is taken
    give_back(first, wanted);
    return;
  }
  throw std::bad_alloc();
}

}  // namespace yard
