#pragma once

#include <cstdint>
#include <vector>

#include "core/random.h"

namespace yard {

/// A map from 64-bit keys to numbers that are not negative, filled once and looked up millions of times: open addressing, half empty.
class FlatMap {
 public:
  void insert(std::uint64_t key, std::int32_t value) {
    if (2 * (size_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[place(key)];
    if (slot.value < 0) ++size_;
    slot = {key, value};
  }

  /// -1 when the key is absent.
  std::int32_t find(std::uint64_t key) const { return slots_.empty() ? -1 : slots_[place(key)].value; }

 private:
  struct Slot {
    std::uint64_t key = 0;
    std::int32_t value = -1;
  };

  std::size_t place(std::uint64_t key) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = static_cast<std::size_t>(mix(key)) & mask;
    while (slots_[at].value >= 0 && slots_[at].key != key) at = (at + 1) & mask;
    return at;
  }

  void grow() {
    std::vector<Slot> old(slots_.empty() ? 16 : 2 * slots_.size());
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.value >= 0) slots_[place(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;
  std::size_t size_ = 0;
};

}  // namespace yard
