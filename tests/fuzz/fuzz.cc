#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>

/// Shorter stacks of allocations: taking them is a tenth of the time.
extern "C" const char* __asan_default_options() { return "malloc_context_size=4"; }  // NOLINT(bugprone-reserved-identifier)

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

void FolderFile::set(std::string_view text) {
  file_.set(std::as_bytes(std::span(text)));
  if (!present_) std::filesystem::create_symlink(file_.path(), path_);
  present_ = true;
}

void FolderFile::remove() {
  if (present_) std::filesystem::remove(path_);
  present_ = false;
}

std::vector<std::string_view> parts_of(const std::uint8_t* data, std::size_t size, std::size_t count) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::vector<std::string_view> parts;
  while (parts.size() + 1 < count) {
    const std::size_t end = std::min(rest.find('\0'), rest.size());
    parts.push_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  parts.push_back(rest);
  return parts;
}

std::size_t mutate_text(std::uint8_t* text, std::size_t size, std::size_t limit, unsigned seed) {
  std::minstd_rand random(seed);
  return random() % 2 == 0 ? mutate_number(text, size, limit, random) : LLVMFuzzerMutate(text, size, limit);
}

std::size_t mutate_number(std::uint8_t* text, std::size_t size, std::size_t limit, std::minstd_rand& random) {
  const auto digit = [&](std::size_t i) { return text[i] >= '0' && text[i] <= '9'; };
  std::vector<std::size_t> numbers;
  for (std::size_t i = 0; i < size; ++i) {
    if (digit(i) && (i == 0 || !digit(i - 1))) numbers.push_back(i);
  }
  if (numbers.empty()) return size;
  const std::size_t first = numbers[random() % numbers.size()];
  std::size_t last = first;
  std::uint64_t value = 0;
  for (; last < size && digit(last); ++last) value = 10 * value + (text[last] - '0');
  constexpr std::array<std::uint64_t, 6> kPowers = {
      0, std::uint64_t{1} << 31, std::uint64_t{1} << 32, std::uint64_t{1} << 61, std::uint64_t{1} << 62, std::uint64_t{1} << 63};
  const std::uint64_t base = random() % 2 == 0 ? value : kPowers[random() % kPowers.size()];
  const std::string changed = random() % 8 == 0 ? "0" : std::to_string(base + random() % 9 - 4);
  if (size - (last - first) + changed.size() > limit) return size;
  std::memmove(text + first + changed.size(), text + last, size - last);
  std::copy(changed.begin(), changed.end(), text + first);
  return size - (last - first) + changed.size();
}

}  // namespace yard::fuzz
