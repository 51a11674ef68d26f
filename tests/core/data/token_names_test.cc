#include "core/data/token_names.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/data/token_file.h"
#include "tests/support/support.h"

namespace yard {
namespace {

using test::TemporaryFolder;
namespace fs = std::filesystem;

void write_pair(const std::string& prefix, std::vector<std::int32_t> ids) {
  MegatronWriter writer(prefix, 100);
  writer.add_document(ids);
  writer.finish();
}

std::vector<std::int32_t> ids_of(const std::string& names) {
  const TokenStream stream(names);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(stream.length()));
  stream.copy(0, ids);
  return ids;
}

std::string error_of(const std::string& names) {
  try {
    (void)token_file_names(names);
    return "nothing was refused";
  } catch (const InputError& error) {
    return error.what();
  }
}

TEST(TokenNames, APatternReadsAMegatronPairOnce) {
  const TemporaryFolder folder;
  write_pair(folder / "tiny", {1, 2});
  write_pair(folder / "tiny2", {3});
  EXPECT_EQ(ids_of(folder / "tiny*"), (std::vector<std::int32_t>{1, 2, 3}));
  EXPECT_EQ(ids_of(folder / "t?ny.[bi]*"), (std::vector<std::int32_t>{1, 2}));
  EXPECT_EQ(ids_of(folder / "tiny*.idx"), (std::vector<std::int32_t>{1, 2, 3})) << "an index stands for its pair";
  fs::create_symlink(folder / "tiny.bin", folder / "tiny3.bin");
  fs::create_symlink(folder / "tiny.idx", folder / "tiny3.idx");
  EXPECT_EQ(ids_of(folder / "tiny*"), (std::vector<std::int32_t>{1, 2, 3})) << "a link leads to a file that is read already";
}

TEST(TokenNames, APatternRejectsWhatIsNotWhole) {
  const TemporaryFolder folder;
  write_pair(folder / "tiny", {1, 2});
  std::ofstream(folder / "tiny2.bin.tmp") << "ab";
  EXPECT_NE(error_of(folder / "tiny*").find("tiny2.bin.tmp, which is not complete"), std::string::npos) << error_of(folder / "tiny*");
  EXPECT_EQ(ids_of(folder / "tiny*.bin").size(), 2U);
  fs::remove(folder / "tiny2.bin.tmp");
  fs::copy_file(folder / "tiny.idx", folder / "tiny4.idx");
  EXPECT_NE(error_of(folder / "tiny*").find("tiny4.bin does not exist"), std::string::npos) << error_of(folder / "tiny*");
}

TEST(TokenNames, AListRejectsAFileThatItNamesTwice) {
  const TemporaryFolder folder;
  write_pair(folder / "a", {1, 2});
  write_pair(folder / "b", {3});
  fs::create_symlink(folder / "a.bin", folder / "link.bin");
  fs::create_symlink(folder / "a.idx", folder / "link.idx");
  fs::create_hard_link(folder / "a.bin", folder / "hard.bin");
  fs::create_hard_link(folder / "a.idx", folder / "hard.idx");
  EXPECT_EQ(ids_of(folder / "b" + "," + (folder / "a")), (std::vector<std::int32_t>{3, 1, 2}));
  for (const char* again : {"a", "a.bin", "a.idx", "./a", "link", "hard", "a*", "../*/a.bin"}) {
    const std::string error = error_of((folder / "a") + "," + (folder / "b") + "," + (folder / again));
    EXPECT_NE(error.find("is named twice"), std::string::npos) << again << ": " << error;
    EXPECT_NE(error.find(folder.path()), std::string::npos) << error;
  }
}

TEST(TokenNames, NamesMayHoldSpecialCharacters) {
  const TemporaryFolder folder;
  const std::string odd = folder / "a, b";
  fs::create_directory(odd);
  write_pair(odd + "/x*y", {1});
  write_pair(odd + "/[z]?", {2});
  write_pair(odd + "/back\\slash", {3});
  write_pair(odd + "/xyy", {4});
  for (const char* suffix : {"", ".bin", ".idx"}) {
    EXPECT_EQ(ids_of(odd + "/x*y" + suffix), (std::vector<std::int32_t>{1})) << "a name that exists is no pattern";
    EXPECT_EQ(ids_of(odd + "/[z]?" + suffix), (std::vector<std::int32_t>{2}));
    EXPECT_EQ(ids_of(odd + "/back\\slash" + suffix), (std::vector<std::int32_t>{3}));
  }
  const std::string escaped = folder / "a\\, b";
  EXPECT_EQ(ids_of(escaped + "/x\\*y," + escaped + "/\\[z]\\?"), (std::vector<std::int32_t>{1, 2}));
  EXPECT_EQ(ids_of(escaped + "/x*y.bin," + escaped + "/xyy"), (std::vector<std::int32_t>{1, 4}));
  EXPECT_EQ(ids_of(escaped + "/x*"), (std::vector<std::int32_t>{1, 4}));
  EXPECT_EQ(ids_of(escaped + "/back\\\\slash.b?n"), (std::vector<std::int32_t>{3}));
  EXPECT_EQ(error_of(folder / "no*"), "no token file matches " + (folder / "no*"));
  EXPECT_EQ(error_of(","), "no token file is named");
  EXPECT_EQ(token_file_names("nowhere\\,else"), std::vector<std::string>{"nowhere,else"});
}

}  // namespace
}  // namespace yard
