#include "tests/cuda_emulation/memory.h"

#include <sys/mman.h>
#include <unistd.h>
#include <csignal>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "core/device/poison.h"
#include "tests/cuda_emulation/fiber.h"
#include "tests/cuda_emulation/options.h"

namespace yard::emulation {
namespace {

constexpr std::size_t kGap = 512;  // poisoned, below and above each block
constexpr std::size_t kPage = std::size_t{2} << 20;
constexpr std::size_t kSmallPage = 4096;
constexpr std::size_t kLazy = std::size_t{1} << 18;      // blocks from here on take pages as they are touched
constexpr std::size_t kNanBytes = std::size_t{4} << 20;  // of the file that untouched pages show
constexpr std::size_t kQuarantine = 16;                  // blocks of a size that rest before one is used again

// For the handler of faults, which can ask nobody.
const Memory* watched = nullptr;
struct sigaction before = {};

std::size_t rounded_up(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

std::byte* page_after(std::byte* at) { return reinterpret_cast<std::byte*>(rounded_up(reinterpret_cast<std::uintptr_t>(at), kSmallPage)); }

/// A file of NaN: private mappings of it are memory that nobody wrote yet, and cost nothing until somebody does.
int make_nan_file() {
  const int file = memfd_create("nan", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(kNanBytes)) != 0) throw std::bad_alloc();
  void* values = mmap(nullptr, kNanBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (values == MAP_FAILED) throw std::bad_alloc();
  std::memset(values, 0xff, kNanBytes);
  munmap(values, kNanBytes);
  return file;
}

void on_fault(int signal, siginfo_t* info, void* context) {
  if (watched->holds(info->si_addr)) {
    fault("memory of the GPU was touched while nothing of it runs, " + watched->describe(info->si_addr) +
          ": the host cannot read or write it, only copy it in the order of a stream");
  }
  if (Fiber::overflowed(info->si_addr)) fault("a thread of a kernel uses more stack than a fiber has");
  if ((before.sa_flags & SA_SIGINFO) != 0 && before.sa_sigaction != nullptr) return before.sa_sigaction(signal, info, context);
  sigaction(signal, &before, nullptr);  // the instruction is tried again, and the process ends as it would have
}

/// A fault at the end of a stack needs another one to be reported on.
void give_alternate_stack() {
  static std::vector<std::byte> memory(std::size_t{64} << 10);
  stack_t stack{};
  stack.ss_sp = memory.data();
  stack.ss_size = memory.size();
  sigaltstack(&stack, nullptr);
}

}  // namespace

Memory::Memory() {
  void* base = mmap(nullptr, kBytes + kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) throw std::bad_alloc();
  base_ = reinterpret_cast<std::byte*>(rounded_up(reinterpret_cast<std::uintptr_t>(base), kPage));
  nan_file_ = make_nan_file();
  watched = this;
  give_alternate_stack();
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &before);
}

void* Memory::reserve(std::size_t bytes) {
  const std::size_t size = rounded_up(bytes, kAlignment);
  const std::size_t whole = size + kGap;
  std::byte* block = nullptr;
  auto& ended = ended_[size];
  const bool room = used_ + kGap + whole <= kBytes;
  if (ended.size() > (room ? kQuarantine : 0)) {
    block = ended.front();
    ended.pop_front();
  } else if (room) {
    forbid(base_ + used_, kGap + whole);
    block = base_ + used_ + kGap;
    used_ += whole;
  } else {
    return nullptr;
  }
  in_use_ += bytes;
  blocks_[block] = {bytes, false};
  return block;
}

void Memory::begin(void* block) {
  auto* const first = static_cast<std::byte*>(block);
  const std::size_t bytes = blocks_.at(first).bytes;
  allow(block, bytes);
  if (bytes < kLazy) {
    std::memset(block, 0xff, bytes);
    return;
  }
  std::byte* const start = page_after(first);
  std::byte* const stop = page_after(first + bytes - kSmallPage + 1);
  std::memset(first, 0xff, static_cast<std::size_t>(start - first));
  std::memset(stop, 0xff, static_cast<std::size_t>(first + bytes - stop));
  for (std::byte* at = start; at < stop; at += kNanBytes) {
    const std::size_t part = std::min(kNanBytes, static_cast<std::size_t>(stop - at));
    if (mmap(at, part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, nan_file_, 0) == MAP_FAILED) throw std::bad_alloc();
  }
}

bool Memory::give_up(void* block) {
  const auto found = blocks_.find(static_cast<std::byte*>(block));
  if (found == blocks_.end() || found->second.given_up) return false;
  found->second.given_up = true;
  return true;
}

void Memory::end(void* block) {
  const auto found = blocks_.find(static_cast<std::byte*>(block));
  const std::size_t bytes = found->second.bytes;
  if (bytes >= kLazy) {
    std::byte* const start = page_after(static_cast<std::byte*>(block));
    std::byte* const stop = page_after(static_cast<std::byte*>(block) + bytes - kSmallPage + 1);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    (void)mmap(start, static_cast<std::size_t>(stop - start), PROT_READ | PROT_WRITE, flags, -1, 0);
  }
  forbid(block, bytes);
  in_use_ -= bytes;
  blocks_.erase(found);
  ended_[rounded_up(bytes, kAlignment)].push_back(static_cast<std::byte*>(block));
}

bool Memory::holds(const void* address) const {
  const auto* at = static_cast<const std::byte*>(address);
  return at >= base_ && at < base_ + kBytes;
}

bool Memory::within_block(const void* address, std::size_t bytes) const {
  const auto* at = static_cast<const std::byte*>(address);
  auto found = blocks_.upper_bound(at);
  if (found == blocks_.begin()) return false;
  --found;
  return !found->second.given_up && at + bytes <= found->first + found->second.bytes;
}

std::string Memory::describe(const void* address) const {
  const auto* at = static_cast<const std::byte*>(address);
  auto found = blocks_.upper_bound(at);
  if (found == blocks_.begin()) return "outside of every block";
  --found;
  return std::to_string(at - found->first) + " bytes into a block of " + std::to_string(found->second.bytes) + " bytes";
}

void Memory::protect(bool open) {
  const std::size_t bytes = std::min(rounded_up(used_ + kGap, kPage), kBytes);
  if (mprotect(base_, bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) fault("the protection of device memory cannot be changed");
}

Memory::Open::Open(Memory& memory) : memory_(memory) {
  if (memory_.open_++ == 0) memory_.protect(true);
}

Memory::Open::~Open() {
  if (--memory_.open_ == 0) memory_.protect(false);
}

void* PinnedMemory::take(std::size_t bytes) {
  void* block = nullptr;
  if (posix_memalign(&block, 64, bytes) == 0) blocks_[static_cast<std::byte*>(block)] = bytes;
  return block;
}

bool PinnedMemory::give_back(void* block) {
  if (blocks_.erase(static_cast<std::byte*>(block)) == 0) return false;
  std::free(block);
  return true;
}

bool PinnedMemory::holds(const void* address) const {
  const auto* at = static_cast<const std::byte*>(address);
  auto found = blocks_.upper_bound(at);
  if (found == blocks_.begin()) return false;
  --found;
  return at < found->first + found->second;
}

}  // namespace yard::emulation
