#include "core/io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/io/crc32c.h"

namespace yard {

namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;
constexpr std::size_t kLargestCall = std::size_t{1} << 30;  // Linux moves less than 2 GiB a call

FileDescriptor open_for_reading(const std::string& path, std::uint64_t& size) {
  FileDescriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!descriptor) fail_input("cannot read ", path, ": ", std::strerror(errno));
  struct stat status {};
  if (::fstat(descriptor.get(), &status) != 0) fail_input("cannot read ", path, ": ", std::strerror(errno));
  check_input(S_ISREG(status.st_mode), "cannot read ", path, ": it is not a regular file");
  size = static_cast<std::uint64_t>(status.st_size);
  return descriptor;
}

}  // namespace

void FileDescriptorTraits::destroy(Type descriptor) noexcept { ::close(descriptor); }

MappedFile::MappedFile(std::string path) : path_(std::move(path)) {
  std::uint64_t size = 0;
  const FileDescriptor descriptor = open_for_reading(path_, size);
  if (size == 0) return;  // an empty range cannot be mapped
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
  if (address == MAP_FAILED) fail("cannot map ", path_, ": ", std::strerror(errno));
  bytes_ = {static_cast<const std::byte*>(address), size};
}

MappedFile::MappedFile(MappedFile&& other) noexcept : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

ReadFile::ReadFile(std::string path) : path_(std::move(path)), descriptor_(open_for_reading(path_, size_)) {}

void ReadFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  check(offset <= size_ && out.size() <= size_ - offset, "bytes [", offset, ", ", offset + out.size(), ") are outside of ", path_,
        ", which has ", size_);
  while (!out.empty()) {
    const ssize_t count = ::pread(descriptor_.get(), out.data(), std::min(out.size(), kLargestCall), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    check(count >= 0, "cannot read ", path_, ": ", std::strerror(errno));
    check(count > 0, "cannot read ", path_, ": it became shorter while it was read");
    out = out.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
}

FileWriter::FileWriter(std::string path)
    : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (!descriptor_) fail("cannot write ", path_, ": ", std::strerror(errno));
  buffer_.reserve(kBufferBytes);
}

FileWriter::~FileWriter() {
  if (!descriptor_) return;
  struct stat status {};
  const bool regular = ::fstat(descriptor_.get(), &status) == 0 && S_ISREG(status.st_mode);
  descriptor_.reset();
  if (regular) ::unlink(path_.c_str());
}

void FileWriter::put(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_.get(), bytes.data(), std::min(bytes.size(), kLargestCall));
    if (count < 0 && errno == EINTR) continue;
    check(count >= 0, "cannot write ", path_, ": ", std::strerror(errno));
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void FileWriter::flush() {
  put(buffer_);
  buffer_.clear();
}

void FileWriter::write(std::span<const std::byte> bytes) {
  check(static_cast<bool>(descriptor_), "cannot write ", path_, ": it is already closed");
  written_ += bytes.size();
  checksum_ = crc32c(bytes, checksum_);
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() > kBufferBytes) {
    put(bytes);
  } else {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
}

void FileWriter::finish() {
  check(static_cast<bool>(descriptor_), "cannot write ", path_, ": it is already closed");
  flush();
  // Pipes and devices cannot be synchronised (EINVAL, ENOTSUP); everything else that fails here is lost data.
  if (::fsync(descriptor_.get()) != 0 && errno != EINVAL && errno != ENOTSUP) fail("cannot write ", path_, ": ", std::strerror(errno));
  const int descriptor = descriptor_.release();
  if (::close(descriptor) != 0) fail("cannot write ", path_, ": ", std::strerror(errno));
}

void rename_file(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) fail("cannot rename ", from, " to ", to, ": ", std::strerror(errno));
}

}  // namespace yard
