#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "tests/support/support.h"

namespace yard {
namespace {

using test::run_command;
using test::TemporaryFolder;
using ::testing::HasSubstr;

/// dictd's base 64, most significant digit first.
std::string digits(std::size_t value) {
  static const std::string alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text(1, alphabet[value % 64]);
  for (value /= 64; value > 0; value /= 64) text.insert(text.begin(), alphabet[value % 64]);
  return text;
}

std::uint32_t fnv1a(const std::string& text) {
  std::uint32_t hash = 2166136261U;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  return hash;
}

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

/// A dictionary of 400 headwords with one or two entries each, among other headwords' entries, with bytes that are not UTF-8 and blank
/// lines.
struct Dictionary {
  std::string text = "\n\n", index;
  std::map<bool, std::string> expected;  // validation? -> the entries in their order
  Dictionary() {
    add("00-database-info", "00-database-info\n   About itself.\n\n", false);
    for (int round = 0; round < 2; ++round) {
      for (int i = 0; i < 400; i += 1 + round) {
        const std::string word = (round == 0 ? "Word" : "word") + std::to_string(i);
        add(word, word + " \\Word\\, n.\n   Sense \x92 " + std::to_string(i * 7 + round) + ".\n\n   A second part.\n\n", true);
      }
    }
  }
  void add(const std::string& word, const std::string& entry, bool kept) {
    // The index has more headwords than the one that the entry begins with: they must not decide.
    for (const std::string& name : {std::string("Another of ") + word, word}) {
      index += name + "\t" + digits(text.size()) + "\t" + digits(entry.size() - 1) + "\n";
    }
    text += entry;
    if (!kept) return;
    std::string lower = word;
    lower[0] = 'w';
    expected[fnv1a(lower) % 50 == 0] += entry;
  }
};

std::string split(const TemporaryFolder& folder) {
  return std::string(YARD_SOURCE) + "/launch/split_dictionary " + folder / "d.dict" + " " + folder / "d.index" + " " +
         folder / "train.txt" + " " + folder / "validation.txt";
}

TEST(SplitDictionary, AHeadwordFallsToOneSideAndEveryByteIsKept) {
  const TemporaryFolder folder;
  Dictionary dictionary;
  ASSERT_FALSE(dictionary.expected[true].empty());
  write(folder / "d.dict", dictionary.text);
  write(folder / "d.index", dictionary.index);
  const auto result = run_command(split(folder));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(read(folder / "train.txt"), dictionary.expected[false]);
  EXPECT_EQ(read(folder / "validation.txt"), dictionary.expected[true]);
}

TEST(SplitDictionary, ACompressedDictionaryIsTheSame) {
  const TemporaryFolder folder;
  Dictionary dictionary;
  write(folder / "d.dict", dictionary.text);
  write(folder / "d.index", dictionary.index);
  const auto result = run_command("cd " + folder.path() + " && gzip -c d.dict > d.dict.dz && " + YARD_SOURCE +
                                  "/launch/split_dictionary d.dict.dz d.index train.txt validation.txt");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(read(folder / "validation.txt"), dictionary.expected[true]);
}

TEST(SplitDictionary, AnIndexOfAnotherVersionIsRefusedInASentence) {
  const TemporaryFolder folder;
  const Dictionary dictionary;
  write(folder / "d.dict", dictionary.text.substr(0, dictionary.text.size() / 2));
  write(folder / "d.index", dictionary.index);
  const auto result = run_command(split(folder));
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("points beyond the end of the dictionary"));
  EXPECT_EQ(read(folder / "train.txt"), "");
}

}  // namespace
}  // namespace yard
