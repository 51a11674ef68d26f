#include "tests/cuda_emulation/block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "core/device/poison.h"

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace yard::emulation {
namespace {

constexpr std::size_t kGap = 64;  // poisoned, around each tile

std::string text(uint3 at) { return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")"; }

std::string hexadecimal(unsigned lanes) {
  char digits[16];
  std::snprintf(digits, sizeof(digits), "0x%08x", lanes);
  return digits;
}

}  // namespace

Core& Core::mine() {
  thread_local Core core;
  return core;
}

Core::Core() : draws_(0, 0) {
  void* arena = mmap(nullptr, 2 * kSharedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (arena == MAP_FAILED) throw std::bad_alloc();
  arena_ = static_cast<std::byte*>(arena);
  forbid(arena_, 2 * kSharedBytes);
}

Core::~Core() {
  allow(arena_, 2 * kSharedBytes);
  munmap(arena_, 2 * kSharedBytes);
}

/// A fiber lives on from block to block: it runs one thread of the kernel each time.
void Core::live(void* thread) {
  auto* self = static_cast<Thread*>(thread);
  while (true) {
    (*self->core->body_)();
    self->state = State::gone;
    self->fiber->yield();
  }
}

void Core::run(uint3 block, dim3 block_size, dim3 grid_size, const std::function<void()>& thread, std::uint64_t launch) {
  body_ = &thread;
  blockIdx = block;
  blockDim = block_size;
  gridDim = grid_size;
  count_ = static_cast<int>(block_size.x * block_size.y * block_size.z);
  draws_ =
      Draws(options().seed + launch, block.x + (static_cast<std::uint64_t>(block.y) << 32) + (static_cast<std::uint64_t>(block.z) << 48));
  forbid(arena_, std::min(used_ + kGap, 2 * kSharedBytes));
  used_ = 0;
  tiles_.clear();
  while (static_cast<int>(threads_.size()) < count_) {
    auto fresh = std::make_unique<Thread>();
    fresh->core = this;
    fresh->fiber = std::make_unique<Fiber>(&Core::live, fresh.get());
    threads_.push_back(std::move(fresh));
  }
  std::vector<int> ready(static_cast<std::size_t>(count_));
  for (int i = 0; i < count_; ++i) {
    const auto at = static_cast<unsigned>(i);
    ready[at] = i;
    threads_[at]->state = State::ready;
    threads_[at]->index = {at % block_size.x, at / block_size.x % block_size.y, at / block_size.x / block_size.y};
  }
  while (!ready.empty()) {
    order(ready);
    for (const int i : ready) {
      current_ = i;
      Thread& next = running();
      threadIdx = next.index;
      next.fiber->resume();
    }
    if (!release_warps() && !release_block()) {
      const bool all_gone =
          std::all_of(threads_.begin(), threads_.begin() + count_, [](const auto& one) { return one->state == State::gone; });
      if (!all_gone) stuck();
    }
    ready.clear();
    for (int i = 0; i < count_; ++i) {
      if (threads_[static_cast<std::size_t>(i)]->state == State::ready) ready.push_back(i);
    }
  }
}

void Core::order(std::vector<int>& ready) {
  switch (options().order) {
    case Order::forward:
      return;
    case Order::reverse:
      return std::reverse(ready.begin(), ready.end());
    case Order::shuffled:
      for (std::size_t left = ready.size(); left > 1; --left)
        std::swap(ready[left - 1], ready[draws_.below(static_cast<std::uint32_t>(left))]);
  }
}

Core::Thread& Core::running() { return *threads_[static_cast<std::size_t>(current_)]; }

void Core::stop(State why) {
  Thread& self = running();
  self.state = why;
  self.fiber->yield();
}

void Core::meet_block() { stop(State::at_block); }

int Core::lane() const { return current_ % kWarp; }

void Core::meet_warp(Meeting kind, unsigned lanes, const void* mine, int from, void* into, std::size_t bytes) {
  Thread& self = running();
  const int first = current_ - lane();
  const int width = std::min(kWarp, count_ - first);
  const unsigned existing = width == kWarp ? ~0U : (1U << width) - 1U;
  if ((lanes >> lane() & 1U) == 0) fault(place() + " meets lanes " + hexadecimal(lanes) + " of its warp without being one of them");
  if ((lanes & ~existing) != 0) {
    fault(place() + " waits for lanes " + hexadecimal(lanes) + " of its warp, which has only " + std::to_string(width) + " threads");
  }
  self.meeting = kind;
  self.lanes = lanes;
  if (bytes > 0) std::memcpy(self.handed.data(), mine, bytes);
  stop(State::at_warp);
  if (bytes == 0) return;
  if ((lanes >> from & 1U) != 0) {
    std::memcpy(into, threads_[static_cast<std::size_t>(first + from)]->taken.data(), bytes);
  } else {
    std::memset(into, 0xff, bytes);
  }
}

unsigned Core::vote(unsigned lanes, bool is_true) {
  unsigned char mine = is_true ? 1 : 0;
  unsigned char unused = 0;
  const int first = current_ - lane();
  meet_warp(Meeting::vote, lanes, &mine, lane(), &unused, 1);
  unsigned result = 0;
  for (int i = 0; i < kWarp; ++i) {
    if ((lanes >> i & 1U) != 0 && threads_[static_cast<std::size_t>(first + i)]->taken[0] == std::byte{1}) result |= 1U << i;
  }
  return result;
}

/// Lets go the lanes whose whole mask has come to the same meeting.
bool Core::release_warps() {
  bool released = false;
  for (int first = 0; first < count_; first += kWarp) {
    const int width = std::min(kWarp, count_ - first);
    for (int i = 0; i < width; ++i) {
      Thread& one = *threads_[static_cast<std::size_t>(first + i)];
      if (one.state != State::at_warp) continue;
      bool complete = true;
      for (int other = 0; other < width; ++other) {
        if ((one.lanes >> other & 1U) == 0) continue;
        const Thread& it = *threads_[static_cast<std::size_t>(first + other)];
        complete &= it.state == State::at_warp && it.lanes == one.lanes && it.meeting == one.meeting;
      }
      if (!complete) continue;
      released = true;
      for (int other = 0; other < width; ++other) {
        if ((one.lanes >> other & 1U) == 0) continue;
        Thread& it = *threads_[static_cast<std::size_t>(first + other)];
        it.taken = it.handed;
        it.state = State::ready;
      }
    }
  }
  return released;
}

/// Lets everybody go once all threads that have not left the kernel are at the block's barrier.
bool Core::release_block() {
  bool waiting = false;
  for (int i = 0; i < count_; ++i) {
    const State state = threads_[static_cast<std::size_t>(i)]->state;
    if (state == State::at_warp) return false;
    waiting |= state == State::at_block;
  }
  if (!waiting) return false;
  for (int i = 0; i < count_; ++i) {
    Thread& one = *threads_[static_cast<std::size_t>(i)];
    if (one.state == State::at_block) one.state = State::ready;
  }
  return true;
}

std::string Core::place() const {
  return "thread " + text(threads_[static_cast<std::size_t>(current_)]->index) + " of block " + text(blockIdx);
}

void Core::stuck() const {
  int at_block = 0;
  int gone = 0;
  std::string waiting;
  for (int i = 0; i < count_; ++i) {
    const Thread& one = *threads_[static_cast<std::size_t>(i)];
    at_block += one.state == State::at_block ? 1 : 0;
    gone += one.state == State::gone ? 1 : 0;
    if (one.state == State::at_warp && waiting.empty())
      waiting = "thread " + text(one.index) + " waits for lanes " + hexadecimal(one.lanes);
  }
  fault("a kernel hangs: in block " + text(blockIdx) + " of " + std::to_string(count_) + " threads " + waiting + ", while " +
        std::to_string(at_block) + " wait at the block's barrier and " + std::to_string(gone) + " have left the kernel");
}

void* Core::shared_memory(const void* key, std::size_t bytes, std::size_t alignment) {
  for (const Tile& tile : tiles_) {
    if (tile.key == key) return arena_ + tile.offset;
  }
  const std::size_t offset = (used_ + kGap + alignment - 1) / alignment * alignment;
  used_ = offset + bytes;
  std::size_t total = bytes;
  for (const Tile& tile : tiles_) total += tile.bytes;
  if (total > kSharedBytes || used_ + kGap > 2 * kSharedBytes) {
    fault("a kernel asks for " + std::to_string(total) + " bytes of shared memory; a block has " + std::to_string(kSharedBytes));
  }
  allow(arena_ + offset, bytes);
  std::memset(arena_ + offset, 0xff, bytes);  // NaN in every floating type
  tiles_.push_back({key, offset, bytes});
  return arena_ + offset;
}

void meet_block() { Core::mine().meet_block(); }
void meet_warp(Meeting kind, unsigned lanes, const void* mine, int from, void* into, std::size_t bytes) {
  Core::mine().meet_warp(kind, lanes, mine, from, into, bytes);
}
unsigned vote(unsigned lanes, bool is_true) { return Core::mine().vote(lanes, is_true); }
void refuse(const char* what) { fault(std::string("a kernel cannot work with what it was given: ") + what); }
int lane() { return Core::mine().lane(); }
void* shared_memory(const void* key, std::size_t bytes, std::size_t alignment) { return Core::mine().shared_memory(key, bytes, alignment); }

}  // namespace yard::emulation
