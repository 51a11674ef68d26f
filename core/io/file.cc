#include "core/io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/error.h"
#include "core/io/crc32c.h"

namespace yard {

namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;
constexpr std::size_t kLargestCall = std::size_t{1} << 30;  // Linux moves less than 2 GiB a call

[[noreturn]] void cannot_read(const std::string& path, int error) { fail_input("cannot read ", path, ": ", std::strerror(error)); }

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

FileDescriptor open_for_reading(const std::string& path, FileIdentity& identity) {
  check_input(!path.empty(), "cannot read a file without a name");
  // A pipe that nobody writes to would keep the open waiting without O_NONBLOCK, which means nothing for regular files.
  FileDescriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!descriptor) cannot_read(path, errno);
  struct stat status {};
  if (::fstat(descriptor.get(), &status) != 0) cannot_read(path, errno);
  check_input(S_ISREG(status.st_mode), "cannot read ", path, ": it is ", kind_of(status.st_mode), ", not a regular file");
  constexpr std::int64_t kNanoseconds = 1000000000;
  identity = {path, static_cast<std::uint64_t>(status.st_size), status.st_dev, status.st_ino,
              std::int64_t{status.st_mtim.tv_sec} * kNanoseconds + status.st_mtim.tv_nsec};
  return descriptor;
}

/// False where there is nothing of that name.
bool status_of(const std::string& path, struct stat& status) {
  if (::stat(path.c_str(), &status) == 0) return true;
  if (errno != ENOENT && errno != ENOTDIR) cannot_read(path, errno);
  return false;
}

}  // namespace

void FileDescriptorTraits::destroy(Type descriptor) noexcept { ::close(descriptor); }

MappedFile::MappedFile(const std::string& path) {
  const FileDescriptor descriptor = open_for_reading(path, identity_);
  const std::uint64_t size = identity_.size;
  if (size == 0) return;  // an empty range cannot be mapped
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
  if (address == MAP_FAILED) fail("cannot map ", path, ": ", std::strerror(errno));
  bytes_ = {static_cast<const std::byte*>(address), size};
}

MappedFile::MappedFile(MappedFile&& other) noexcept : identity_(std::move(other.identity_)), bytes_(std::exchange(other.bytes_, {})) {}

void MappedFile::release(std::span<const std::byte> part) const noexcept {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  // Whole pages within the part: its neighbours may be in use.
  const auto offset = static_cast<std::size_t>(part.data() - bytes_.data());
  const std::size_t first = (offset + page - 1) / page * page;
  const std::size_t last = (offset + part.size()) / page * page;
  if (first >= last) return;
  ::madvise(const_cast<std::byte*>(bytes_.data()) + first, last - first, MADV_DONTNEED);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

std::string read_text_file(const std::string& path, std::uint64_t limit) {
  FileIdentity identity;
  const FileDescriptor descriptor = open_for_reading(path, identity);
  check_input(identity.size <= limit, "cannot read ", path, ": it has ", identity.size, " bytes; such a file has at most ", limit);
  std::string text;
  std::size_t length = 0;
  // Until the end rather than the size: files of /proc have none, and others may grow.
  for (;;) {
    check_input(length <= limit, "cannot read ", path, ": it has more than ", limit, " bytes, the most of such a file");
    text.resize(std::max<std::size_t>(std::max<std::uint64_t>(identity.size, length) + 1, length + 4096));
    const ssize_t count = ::read(descriptor.get(), text.data() + length, std::min(text.size() - length, kLargestCall));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) cannot_read(path, errno);
    if (count == 0) break;
    length += static_cast<std::size_t>(count);
  }
  text.resize(length);
  return text;
}

bool path_exists(const std::string& path) {
  struct stat status {};
  return status_of(path, status);
}

bool is_folder(const std::string& path) {
  struct stat status {};
  return status_of(path, status) && S_ISDIR(status.st_mode);
}

std::vector<std::string> names_in_folder(const std::string& path) {
  if (!path_exists(path)) return {};
  std::vector<std::string> names;
  std::error_code error;
  auto entry = std::filesystem::directory_iterator(path, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  check_input(!error, "cannot read the folder ", path, ": ", error.message());
  std::sort(names.begin(), names.end());
  return names;
}

ReadFile::ReadFile(const std::string& path) : descriptor_(open_for_reading(path, identity_)) {}

void ReadFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  check(offset <= identity_.size && out.size() <= identity_.size - offset, "bytes [", offset, ", ", offset + out.size(),
        ") are outside of ", path(), ", which has ", identity_.size);
  while (!out.empty()) {
    const ssize_t count = ::pread(descriptor_.get(), out.data(), std::min(out.size(), kLargestCall), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    check(count >= 0, "cannot read ", path(), ": ", std::strerror(errno));
    check(count > 0, "cannot read ", path(), ": it became shorter while it was read");
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
