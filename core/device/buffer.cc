#include "core/device/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>  // its macros do nothing without the sanitizer
#endif

namespace yard {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kMapped = std::size_t{1} << 20;  // blocks from here on are mapped by themselves
constexpr std::size_t kHugePage = std::size_t{2} << 20;

/// Tells the address sanitizer, where there is one, that nobody may touch these bytes.
void forbid([[maybe_unused]] void* block, [[maybe_unused]] std::size_t bytes) {
#ifdef ASAN_POISON_MEMORY_REGION
  ASAN_POISON_MEMORY_REGION(block, bytes);
#endif
}

/// Takes `forbid` back.
void allow([[maybe_unused]] void* block, [[maybe_unused]] std::size_t bytes) {
#ifdef ASAN_UNPOISON_MEMORY_REGION
  ASAN_UNPOISON_MEMORY_REGION(block, bytes);
#endif
}

/// The class of a size: eight steps between powers of two, so that at most an eighth is wasted.
std::size_t class_of(std::size_t bytes) {
  if (bytes <= kAlignment) return kAlignment;
  const std::size_t step = std::max(kAlignment, std::bit_floor(bytes - 1) / 8);
  return (bytes + step - 1) / step * step;
}

/// Ordinary memory.
class HostBlocks final : public BlockSource {
 public:
  void* take(std::size_t bytes) override {
    if (bytes < kMapped) {
      void* block = std::aligned_alloc(kAlignment, bytes);
      if (block == nullptr) throw std::bad_alloc();
      return block;
    }
    void* block = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) throw std::bad_alloc();
    if (bytes >= kHugePage) madvise(block, bytes, MADV_HUGEPAGE);  // advice only: fewer page faults where it is taken
    return block;
  }

  void give_back(void* block, std::size_t bytes) noexcept override {
    if (bytes < kMapped) {
      std::free(block);
    } else {
      munmap(block, bytes);
    }
  }
};

class CachingAllocator final : public Allocator {
 public:
  explicit CachingAllocator(std::unique_ptr<BlockSource> source) : source_(std::move(source)) {}
  CachingAllocator(const CachingAllocator&) = delete;
  CachingAllocator& operator=(const CachingAllocator&) = delete;
  ~CachingAllocator() override {
    for (auto& [bytes, blocks] : kept_) {
      for (void* block : blocks) {
        allow(block, bytes);
        source_->give_back(block, bytes);
      }
    }
  }

  void* allocate(std::size_t bytes) override {
    const std::size_t size = class_of(bytes);
    {
      const std::lock_guard lock(mutex_);
      in_use_ += size;
      peak_ = std::max(peak_, in_use_);
      auto& blocks = kept_[size];
      if (!blocks.empty()) {
        void* block = blocks.back();
        blocks.pop_back();
        allow(block, bytes);
        return block;
      }
    }
    void* block = nullptr;
    try {
      block = source_->take(size);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      in_use_ -= size;
      throw;
    }
    forbid(block, size);
    allow(block, bytes);
    return block;
  }

  void free(void* block, std::size_t bytes) noexcept override {
    const std::size_t size = class_of(bytes);
    forbid(block, size);
    const std::lock_guard lock(mutex_);
    in_use_ -= size;
    kept_[size].push_back(block);  // the vector grows only when more blocks exist than ever before
  }

  std::size_t in_use() const noexcept override {
    const std::lock_guard lock(mutex_);
    return in_use_;
  }
  std::size_t peak() const noexcept override {
    const std::lock_guard lock(mutex_);
    return peak_;
  }
  void reset_peak() noexcept override {
    const std::lock_guard lock(mutex_);
    peak_ = in_use_;
  }

 private:
  std::unique_ptr<BlockSource> source_;
  mutable std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> kept_;
  std::size_t in_use_ = 0;
  std::size_t peak_ = 0;
};

}  // namespace

Buffer::Buffer(std::shared_ptr<Allocator> from, std::size_t bytes)
    : from_(std::move(from)), data_(bytes == 0 ? nullptr : from_->allocate(bytes)), bytes_(bytes) {}

Buffer::Buffer(Buffer&& other) noexcept
    : from_(std::move(other.from_)), data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(from_, other.from_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) from_->free(data_, bytes_);
}

std::shared_ptr<Allocator> make_caching_allocator(std::unique_ptr<BlockSource> source) {
  return std::make_shared<CachingAllocator>(std::move(source));
}

std::shared_ptr<Allocator> make_host_allocator() { return make_caching_allocator(std::make_unique<HostBlocks>()); }

}  // namespace yard
