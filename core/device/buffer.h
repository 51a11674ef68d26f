#pragma once

#include <cstddef>
#include <memory>

#include "core/device/device.h"

namespace yard {

/// Gives out blocks of bytes and keeps freed ones for the next caller: page faults on large fresh temporaries cost more than many kernels.
/// Safe to use from several threads. One per device and stream. A GPU's allocates and frees in the order of its stream.
class Allocator {
 public:
  virtual ~Allocator() = default;
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void free(void* block, std::size_t bytes) noexcept = 0;
  /// Bytes in use now, and the most that were ever in use at once; kept free blocks do not count.
  virtual std::size_t in_use() const noexcept = 0;
  virtual std::size_t peak() const noexcept = 0;
  virtual void reset_peak() noexcept = 0;
};

/// Sole owner of bytes of one allocator, aligned to 64; contents are uninitialised.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::shared_ptr<Allocator> from, std::size_t bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  void* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  std::shared_ptr<Allocator> from_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Where a caching allocator of host memory takes blocks from and gives them back to; aligned to 64.
class BlockSource {
 public:
  virtual ~BlockSource() = default;
  /// Whether it serves blocks of so many bytes from memory that it keeps itself, so that they are given back as soon as they are free.
  virtual bool keeps(std::size_t /*bytes*/) const noexcept { return false; }
  virtual void* take(std::size_t bytes) = 0;
  virtual void give_back(void* block, std::size_t bytes) noexcept = 0;
};

/// A caching allocator of host memory: of blocks that the source does not keep, those in size classes of an eighth.
std::shared_ptr<Allocator> make_caching_allocator(std::unique_ptr<BlockSource> source);
/// The one of ordinary memory: large blocks are cut from stretches that stay mapped and ask for huge pages (core/device/stretches.h).
std::shared_ptr<Allocator> make_host_allocator();
/// The one of page-locked memory, which a GPU copies to and from by itself (buffer.cu).
std::shared_ptr<Allocator> make_pinned_allocator(Cuda);

}  // namespace yard
