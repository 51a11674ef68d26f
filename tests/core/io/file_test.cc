#include "core/io/file.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "tests/support/support.h"

namespace yard {
namespace {

using test::TemporaryFolder;
using testing::ElementsAre;
using testing::HasSubstr;
namespace fs = std::filesystem;

void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

/// What a body that must throw InputError says.
template <class Body>
std::string rejected(const Body& body) {
  try {
    body();
  } catch (const InputError& error) {
    return error.what();
  }
  return "nothing was rejected";
}

TEST(File, TextIsReadWholeAndLimited) {
  const TemporaryFolder folder;
  const std::string binary("a\0b\r\n\xff", 6);
  put(folder / "t", binary);
  EXPECT_EQ(read_text_file(folder / "t"), binary);
  EXPECT_EQ(read_text_file(folder / "t", 6), binary);
  EXPECT_THAT(rejected([&] { read_text_file(folder / "t", 5); }), HasSubstr("/t: it has 6 bytes; such a file has at most 5"));
  put(folder / "empty", "");
  EXPECT_EQ(read_text_file(folder / "empty"), "");
  const std::string large(100000, 'x');
  put(folder / "large", large);
  EXPECT_EQ(read_text_file(folder / "large"), large);
  EXPECT_THAT(read_text_file("/proc/self/status"), HasSubstr("Pid:")) << "a file whose size is not known";
  EXPECT_THAT(rejected([] { read_text_file("/proc/self/status", 10); }), HasSubstr("more than 10 bytes"));
}

TEST(File, WhatIsNoRegularFileIsRejectedAtOnce) {
  const TemporaryFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0666), 0);
  fs::create_symlink("loop", folder / "loop");
  fs::create_symlink("nothing", folder / "dangling");
  put(folder / "file", "x");
  const std::vector<std::pair<std::string, std::string>> cases = {{folder / "pipe", "it is a pipe"},
                                                                  {folder.path(), "it is a folder"},
                                                                  {"/dev/zero", "it is a device"},
                                                                  {folder / "loop", "Too many levels of symbolic links"},
                                                                  {folder / "dangling", "No such file"},
                                                                  {folder / "file/deeper", "Not a directory"},
                                                                  {folder / std::string(300, 'n'), "too long"}};
  for (const auto& [path, reason] : cases) {
    for (const std::string& sentence : {rejected([&] { read_text_file(path); }), rejected([&] { const MappedFile file(path); }),
                                        rejected([&] { const ReadFile file(path); })}) {
      EXPECT_THAT(sentence, testing::StartsWith("cannot read " + path + ": "));
      EXPECT_THAT(sentence, HasSubstr(reason));
    }
  }
}

TEST(File, APathExistsOrNotOrCannotBeFollowed) {
  const TemporaryFolder folder;
  fs::create_symlink("loop", folder / "loop");
  put(folder / "b", "x");
  fs::create_directory(folder / "a");
  EXPECT_TRUE(path_exists(folder / "b"));
  EXPECT_FALSE(is_folder(folder / "b"));
  EXPECT_TRUE(is_folder(folder / "a"));
  EXPECT_FALSE(path_exists(folder / "none"));
  EXPECT_FALSE(path_exists(folder / "b/deeper"));
  EXPECT_THAT(rejected([&] { path_exists(folder / "loop/state.json"); }), HasSubstr("Too many levels"));
  EXPECT_THAT(names_in_folder(folder.path()), ElementsAre("a", "b", "loop"));
  EXPECT_THAT(names_in_folder(folder / "none"), ElementsAre());
  EXPECT_THAT(rejected([&] { names_in_folder(folder / "b"); }), HasSubstr("cannot read the folder"));
  if (::geteuid() == 0) GTEST_SKIP() << "root reads every folder";
  fs::permissions(folder / "a", fs::perms::none);
  EXPECT_THAT(rejected([&] { path_exists(folder / "a/b"); }), HasSubstr("Permission denied"));
  EXPECT_THAT(rejected([&] { names_in_folder(folder / "a"); }), HasSubstr("Permission denied"));
}

TEST(File, AChangeIsSeenInTheIdentity) {
  const TemporaryFolder folder;
  put(folder / "t", "abc");
  const FileIdentity before = MappedFile(folder / "t").identity();
  EXPECT_EQ(before, MappedFile(folder / "t").identity());
  fs::last_write_time(folder / "t", fs::last_write_time(folder / "t") + std::chrono::nanoseconds(1000));
  EXPECT_NE(before, MappedFile(folder / "t").identity());
  const FileIdentity between = MappedFile(folder / "t").identity();
  put(folder / "u", "abc");
  fs::last_write_time(folder / "u", fs::last_write_time(folder / "t"));
  fs::rename(folder / "u", folder / "t");
  EXPECT_NE(between, MappedFile(folder / "t").identity()) << "another file of that name";
}

TEST(File, ReleasedPagesAreReadAgain) {
  const TemporaryFolder folder;
  std::string bytes(50000, ' ');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i % 251);
  put(folder / "t", bytes);
  const MappedFile file(folder / "t");
  for (const std::size_t first : {std::size_t{0}, std::size_t{5}, std::size_t{4096}, std::size_t{49999}}) {
    file.release(file.bytes().subspan(first));
    EXPECT_EQ(file.text(), bytes);
  }
}

}  // namespace
}  // namespace yard
