#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/handle.h"

namespace yard {

struct FileDescriptorTraits {
  using Type = int;
  static Type null() { return -1; }
  static void destroy(Type descriptor) noexcept;
};
using FileDescriptor = Handle<FileDescriptorTraits>;

/// The bytes of a file, mapped for reading. Throws InputError, naming the file, when it cannot be opened or is no regular file.
class MappedFile {
 public:
  explicit MappedFile(std::string path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const std::string& path() const noexcept { return path_; }
  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  std::string_view text() const noexcept { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
};

/// A file read by position; throws InputError when it cannot be opened, and Error when the system fails to read it.
class ReadFile {
 public:
  explicit ReadFile(std::string path);
  const std::string& path() const noexcept { return path_; }
  std::uint64_t size() const noexcept { return size_; }
  /// Fills `out` with the bytes from `offset`, all of which must exist.
  void read(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  std::string path_;
  std::uint64_t size_ = 0;  // before the descriptor, whose opening sets it
  FileDescriptor descriptor_;
};

/// A new file written from front to back, every write checked: a full disk gives "cannot write FILE: No space left on device".
/// Dropped before `finish`, it removes what it wrote.
class FileWriter {
 public:
  explicit FileWriter(std::string path);
  FileWriter(FileWriter&&) noexcept = default;
  FileWriter& operator=(FileWriter&&) = delete;
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  ~FileWriter();

  const std::string& path() const noexcept { return path_; }
  std::uint64_t written() const noexcept { return written_; }
  /// CRC-32C of all that was written.
  std::uint32_t checksum() const noexcept { return checksum_; }
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  template <class T>
  void write_value(const T& value) {
    write(std::as_bytes(std::span(&value, 1)));
  }
  /// Brings the bytes to the disk and closes the file.
  void finish();

 private:
  void flush();
  void put(std::span<const std::byte> bytes);
  std::string path_;
  FileDescriptor descriptor_;
  std::vector<std::byte> buffer_;
  std::uint64_t written_ = 0;
  std::uint32_t checksum_ = 0;
};

/// Renames a finished file over another one; throws Error.
void rename_file(const std::string& from, const std::string& to);

}  // namespace yard
