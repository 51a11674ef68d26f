#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_emulation/fiber.h"
#include "tests/cuda_emulation/language.h"
#include "tests/cuda_emulation/options.h"

namespace yard::emulation {

/// One core: runs blocks one after another, the threads of a block as fibers. Every thread runs until it waits for others; when all have
/// stopped, what they wait for is looked at. Belongs to one thread of the process.
class Core {
 public:
  /// The one of the calling thread.
  static Core& mine();

  void run(uint3 block, dim3 block_size, dim3 grid_size, const std::function<void()>& thread, std::uint64_t launch);

  // Called by the fiber that runs:
  void meet_block();
  void meet_warp(Meeting kind, unsigned lanes, const void* mine, int from, void* into, std::size_t bytes);
  unsigned vote(unsigned lanes, bool is_true);
  int lane() const;
  void* shared_memory(const void* key, std::size_t bytes, std::size_t alignment);

  Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;
  ~Core();

 private:
  static constexpr int kWarp = 32;
  static constexpr std::size_t kSharedBytes = std::size_t{48} << 10;  // of a kernel without dynamic shared memory
  enum class State : std::uint8_t { ready, at_block, at_warp, gone };
  struct Thread {
    std::unique_ptr<Fiber> fiber;
    Core* core = nullptr;
    State state = State::gone;
    uint3 index{};
    Meeting meeting{};
    unsigned lanes = 0;
    std::array<std::byte, 8> handed{};  // in
    std::array<std::byte, 8> taken{};   // by all lanes of the mask, once it is complete
  };
  struct Tile {
    const void* key;
    std::size_t offset, bytes;
  };

  static void live(void* thread);
  Thread& running();
  void stop(State why);
  bool release_warps();
  bool release_block();
  [[noreturn]] void stuck() const;
  std::string place() const;
  void order(std::vector<int>& ready);

  std::vector<std::unique_ptr<Thread>> threads_;
  int count_ = 0;  // threads of this block
  int current_ = 0;
  const std::function<void()>* body_ = nullptr;
  Draws draws_;
  std::byte* arena_ = nullptr;
  std::size_t used_ = 0;
  std::vector<Tile> tiles_;
};

/// Runs all blocks of a kernel, spread over the cores, and returns when they are done.
void run_grid(dim3 grid, dim3 block, const std::function<void()>& thread);

}  // namespace yard::emulation
