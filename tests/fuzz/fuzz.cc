#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>

namespace yard::fuzz {

MemoryFile::MemoryFile() : descriptor_(memfd_create("input", MFD_CLOEXEC)), path_("/proc/self/fd/" + std::to_string(descriptor_)) {
  expect(descriptor_ >= 0, "no file in memory can be made");
}

MemoryFile::~MemoryFile() { close(descriptor_); }

void MemoryFile::set(std::span<const std::byte> bytes) const {
  expect(ftruncate(descriptor_, static_cast<off_t>(bytes.size())) == 0, "the file in memory cannot be resized");
  expect(pwrite(descriptor_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()), "the file in memory cannot be written");
}

Folder::Folder() : path_((std::filesystem::temp_directory_path() / "switchyard-fuzz-XXXXXX").string()) {
  expect(mkdtemp(path_.data()) != nullptr, "no folder can be made in " + path_);
}

Folder::~Folder() {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(path_, ignored)) std::filesystem::remove(entry.path(), ignored);
  std::filesystem::remove(path_, ignored);
}

}  // namespace yard::fuzz
