#include "core/device/buffer.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "core/device/poison.h"
#include "core/device/stretches.h"

namespace yard {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kLarge = std::size_t{1} << 16;  // ordinary blocks from here on are cut from stretches

/// The class of a size: eight steps between powers of two, so that at most an eighth is wasted.
std::size_t class_of(std::size_t bytes) {
  if (bytes <= kAlignment) return kAlignment;
  const std::size_t step = std::max(kAlignment, std::bit_floor(bytes - 1) / 8);
  return (bytes + step - 1) / step * step;
}

/// Ordinary memory.
class HostBlocks final : public BlockSource {
 public:
  bool keeps(std::size_t bytes) const noexcept override { return bytes >= kLarge; }
  void* take(std::size_t bytes) override {
    if (bytes >= kLarge) return stretches_.take(bytes);
    void* block = std::aligned_alloc(kAlignment, bytes);
    if (block == nullptr) throw std::bad_alloc();
    return block;
  }
  void give_back(void* block, std::size_t bytes) noexcept override {
    if (bytes >= kLarge) {
      stretches_.give_back(block, bytes);
    } else {
      std::free(block);
    }
  }

 private:
  Stretches stretches_;
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
    const std::size_t size = size_of(bytes);
    const std::lock_guard lock(mutex_);
    void* const block = take(size);
    in_use_ += size;
    peak_ = std::max(peak_, in_use_);
    forbid(block, size);
    allow(block, bytes);
    return block;
  }

  void free(void* block, std::size_t bytes) noexcept override {
    const std::size_t size = size_of(bytes);
    forbid(block, size);
    const std::lock_guard lock(mutex_);
    in_use_ -= size;
    if (source_->keeps(size)) {
      source_->give_back(block, size);
    } else {
      kept_[size].push_back(block);  // the vector grows only when more blocks exist than ever before
    }
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
  std::size_t size_of(std::size_t bytes) const { return source_->keeps(bytes) ? Stretches::taken(bytes) : class_of(bytes); }
  void* take(std::size_t size) {
    if (source_->keeps(size)) return source_->take(size);
    auto& blocks = kept_[size];
    if (blocks.empty()) return source_->take(size);
    void* const block = blocks.back();
    blocks.pop_back();
    return block;
  }

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
