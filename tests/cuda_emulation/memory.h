#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <string>

namespace yard::emulation {

/// The device's memory: addresses of its own, that can be touched only while something of the device runs. Called with the device locked.
class Memory {
 public:
  static constexpr std::size_t kBytes = std::size_t{16} << 30;  // addresses; memory is taken as it is touched
  static constexpr std::size_t kAlignment = 256;                // what CUDA promises, and not more

  Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() = default;  // the mapping lives as long as the process: others may still hold addresses

  /// Addresses for a block, null when there are none left. Until `begin` nobody may touch it.
  void* reserve(std::size_t bytes);
  /// The allocation takes place: the block holds NaN in every floating type.
  void begin(void* block);
  /// Whether `end` may be called; each block is given back once.
  bool give_up(void* block);
  /// The free takes place: nobody may touch the block from now on.
  void end(void* block);

  bool holds(const void* address) const;
  /// Whether all the bytes lie in one block that has not been given up.
  bool within_block(const void* address, std::size_t bytes) const;
  /// "24 bytes into a block of 4096 bytes", for a person.
  std::string describe(const void* address) const;
  std::size_t in_use() const { return in_use_; }

  /// While one of these lives, the device runs: its memory can be touched.
  class Open {
   public:
    explicit Open(Memory& memory);
    Open(const Open&) = delete;
    Open& operator=(const Open&) = delete;
    ~Open();

   private:
    Memory& memory_;
  };

 private:
  struct Block {
    std::size_t bytes = 0;
    bool given_up = false;
  };
  void protect(bool open);

  std::byte* base_ = nullptr;
  std::size_t used_ = 0;    // addresses given out so far
  std::size_t in_use_ = 0;  // bytes of blocks that live
  int open_ = 0;
  int nan_file_ = -1;
  std::map<const std::byte*, Block> blocks_;
  std::map<std::size_t, std::deque<std::byte*>> ended_;  // by size, to be used again after a while
};

/// Page-locked host memory, and what queued copies will do to it. Called with the device locked.
class PinnedMemory {
 public:
  void* take(std::size_t bytes);
  bool give_back(void* block);
  bool holds(const void* address) const;

 private:
  std::map<const std::byte*, std::size_t> blocks_;
};

}  // namespace yard::emulation
