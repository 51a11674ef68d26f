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

/// A version of a file: a file that was written since, or replaced, differs in one of these.
struct FileIdentity {
  std::string path;
  std::uint64_t size = 0, device = 0, inode = 0;
  std::int64_t modified = 0;  // nanoseconds since 1970
  bool operator==(const FileIdentity&) const = default;
};

/// The bytes of a file, mapped for reading. Throws InputError, naming the file, when it cannot be opened or is no regular file; a FIFO or a
/// device is rejected without waiting for it. A file that becomes shorter afterwards gives SIGBUS on access (launch/bus_error.h reports
/// it).
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const std::string& path() const noexcept { return identity_.path; }
  /// Of the file as it was opened.
  const FileIdentity& identity() const noexcept { return identity_; }
  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  std::string_view text() const noexcept { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }
  /// Takes pages of a part of bytes() out of the resident set; the next access maps them again.
  void release(std::span<const std::byte> part) const noexcept;

 private:
  FileIdentity identity_;
  std::span<const std::byte> bytes_;
};

/// Default limit of read_text_file, in bytes.
constexpr std::uint64_t kLargestText = std::uint64_t{64} << 20;

/// The contents of a file that people write or that describes others: a configuration, prompts, an index. Throws InputError, naming the
/// file, when it cannot be read, is no regular file or has more than `limit` bytes.
std::string read_text_file(const std::string& path, std::uint64_t limit = kLargestText);

/// Whether something has that path; a path through something that is no folder does not exist. Throws InputError, naming the path, when the
/// system cannot say: no permission, a loop of symbolic links, a name that is too long.
bool path_exists(const std::string& path);
/// Whether the path is a folder; throws as path_exists does.
bool is_folder(const std::string& path);
/// The names in a folder in sorted order; none where there is no such folder. Throws InputError, naming the folder, when it cannot be read.
std::vector<std::string> names_in_folder(const std::string& path);

/// A file read by position; throws InputError when it cannot be opened, and Error when the system fails to read it.
class ReadFile {
 public:
  explicit ReadFile(const std::string& path);
  const std::string& path() const noexcept { return identity_.path; }
  std::uint64_t size() const noexcept { return identity_.size; }
  /// Fills `out` with the bytes from `offset`, all of which must exist.
  void read(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  FileIdentity identity_;  // before the descriptor, whose opening sets it
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
