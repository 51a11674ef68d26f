#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

namespace yard::fuzz {

/// Ends the program so that libFuzzer keeps the input: something is true that must not be.
[[noreturn]] inline void found(const std::string& what) {
  std::fprintf(stderr, "found: %s\n", what.c_str());
  std::abort();
}
inline void expect(bool ok, const std::string& what) {
  if (!ok) found(what);
}

/// What a refusal must be: one line that a person can read, with the name of the file in it.
inline void expect_sentence(std::string_view sentence, std::string_view path) {
  expect(sentence.find(path) != std::string_view::npos, "no file is named: " + std::string(sentence));
  expect(sentence.size() < path.size() + 600, "a message of " + std::to_string(sentence.size()) + " bytes");
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

}  // namespace yard::fuzz
