#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace yard::fuzz {

/// Ends the program so that libFuzzer keeps the input: something is true that must not be.
[[noreturn]] inline void found(const std::string& what) {
  std::fprintf(stderr, "found: %s\n", what.c_str());
  std::abort();
}
inline void expect(bool ok, const std::string& what) {
  if (!ok) found(what);
}

/// What an error must be: one line that a person can read, of at most `most` bytes besides the name of the file, which is in it.
inline void expect_sentence(std::string_view sentence, std::string_view path, std::size_t most = 600) {
  expect(sentence.find(path) != std::string_view::npos, "no file is named: " + std::string(sentence));
  expect(sentence.size() < path.size() + most, "a message of " + std::to_string(sentence.size()) + " bytes");
  for (const char letter : sentence)
    expect(static_cast<unsigned char>(letter) >= 0x20, "a message of several lines: " + std::string(sentence));
}

/// A file in memory with a path, so that a reader can open it; its contents are set anew for every input.
class MemoryFile {
 public:
  MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile();
  const std::string& path() const noexcept { return path_; }
  void set(std::span<const std::byte> bytes) const;

 private:
  int descriptor_;
  std::string path_;
};

/// A folder of its own, removed at the end.
class Folder {
 public:
  Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder();
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

/// A file of a folder, which lies in memory.
class FolderFile {
 public:
  FolderFile(const Folder& folder, const std::string& name) : path_(folder.path() + "/" + name) {}
  /// Makes the file if it is not there.
  void set(std::string_view text);
  void remove();

 private:
  MemoryFile file_;
  std::string path_;
  bool present_ = false;
};

/// The parts of an input between its zero bytes, at least `count` of them; what follows the last belongs to it.
std::vector<std::string_view> parts_of(const std::uint8_t* data, std::size_t size, std::size_t count);

/// Changes a text as libFuzzer does, or, half of the time, puts a number at which arithmetic breaks, or one that differs by one, in the
/// place of one of its numbers. Returns the new size.
std::size_t mutate_text(std::uint8_t* text, std::size_t size, std::size_t limit, unsigned seed);
std::size_t mutate_number(std::uint8_t* text, std::size_t size, std::size_t limit, std::minstd_rand& random);

}  // namespace yard::fuzz

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t limit);
