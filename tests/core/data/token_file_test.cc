#include "core/data/token_file.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <numeric>

#include "tests/support/support.h"

namespace yard {
namespace {

using test::TemporaryFolder;
namespace fs = std::filesystem;

void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <class T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::vector<std::int32_t> all(const TokenStream& stream) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(stream.length()));
  stream.copy(0, ids);
  return ids;
}

/// An index as Megatron-LM writes it, made here from its description.
std::string index_of(std::uint8_t code, const std::vector<std::int32_t>& lengths, const std::vector<std::int64_t>& pointers,
                     const std::vector<std::int64_t>& marks, std::uint64_t version = 1) {
  return std::string("MMIDIDX\0\0", 9) + raw<std::uint64_t>({version}) + static_cast<char>(code) +
         raw<std::uint64_t>({lengths.size(), marks.size()}) + raw(lengths) + raw(pointers) + raw(marks);
}

template <class T>
std::string shard(std::int32_t magic, std::int32_t version, std::int32_t promised, const std::vector<T>& ids) {
  std::vector<std::int32_t> header(256);
  header[0] = magic;
  header[1] = version;
  header[2] = promised;
  return raw(header) + raw(ids);
}

/// Expects an InputError whose sentence holds the words and the name of the file.
template <class Body>
void expect_refused(const Body& body, const std::string& words, const std::string& file) {
  try {
    body();
    ADD_FAILURE() << "nothing was refused; expected: " << words;
  } catch (const InputError& error) {
    const std::string sentence = error.what();
    EXPECT_NE(sentence.find(words), std::string::npos) << sentence;
    EXPECT_NE(sentence.find(file), std::string::npos) << sentence;
  }
}

TEST(TokenFile, WritesMegatronFilesByteForByte) {
  const TemporaryFolder folder;
  const std::vector<std::int32_t> first = {5, 6, 7};
  const std::vector<std::int32_t> second = {8};
  for (const bool narrow : {true, false}) {
    const std::string prefix = folder / (narrow ? "narrow" : "wide");
    MegatronWriter writer(prefix, narrow ? 65499 : 65500);
    writer.add_document(first);
    writer.add_document(second);
    EXPECT_FALSE(fs::exists(prefix + ".bin")) << "nothing appears before it is complete";
    writer.finish();
    EXPECT_EQ(writer.documents(), 2);
    EXPECT_EQ(writer.tokens(), 4);
    EXPECT_EQ(contents(prefix + ".bin"), narrow ? raw<std::uint16_t>({5, 6, 7, 8}) : raw<std::int32_t>({5, 6, 7, 8}));
    EXPECT_EQ(contents(prefix + ".idx"), index_of(narrow ? 8 : 4, {3, 1}, {0, narrow ? 6 : 12}, {0, 1, 2}));
    EXPECT_FALSE(fs::exists(prefix + ".bin.tmp"));
    const TokenStream stream(prefix);
    EXPECT_EQ(all(stream), (std::vector<std::int32_t>{5, 6, 7, 8}));
    EXPECT_EQ(std::vector<Index>(stream.document_ends().begin(), stream.document_ends().end()), (std::vector<Index>{3, 4}));
  }
  MegatronWriter writer(folder / "bad", 9);
  EXPECT_THROW(writer.add_document(std::vector<std::int32_t>{9}), Error);
  EXPECT_THROW(writer.add_document(std::vector<std::int32_t>{-1}), Error);
  EXPECT_THROW(writer.add_document({}), Error);
}

TEST(TokenFile, UnfinishedWritesLeaveNothing) {
  const TemporaryFolder folder;
  { MegatronWriter(folder / "x", 9).add_document(std::vector<std::int32_t>{1}); }
  EXPECT_TRUE(fs::is_empty(folder.path()));
  EXPECT_THROW(MegatronWriter(folder / "no/such/prefix", 9), Error);
}

TEST(TokenFile, SaysThatTheDiskIsFull) {
  const TemporaryFolder folder;
  fs::create_symlink("/dev/full", folder / "x.bin.tmp");
  MegatronWriter writer(folder / "x", 9);
  writer.add_document(std::vector<std::int32_t>{1});
  try {
    writer.finish();
    FAIL() << "a write to a full disk went unnoticed";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("No space left on device"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("x.bin"), std::string::npos) << error.what();
  }
  EXPECT_FALSE(fs::exists(folder / "x.idx"));
}

TEST(TokenFile, ReadsEveryMegatronType) {
  const TemporaryFolder folder;
  const auto check_type = [&](std::uint8_t code, const std::string& bytes, int width) {
    put(folder / "t.bin", bytes);
    put(folder / "t.idx", index_of(code, {2, 1}, {0, 2 * width}, {0, 2}));
    EXPECT_EQ(all(TokenStream(folder / "t")), (std::vector<std::int32_t>{1, 2, 100})) << "code " << int{code};
  };
  check_type(1, raw<std::uint8_t>({1, 2, 100}), 1);
  check_type(2, raw<std::int8_t>({1, 2, 100}), 1);
  check_type(3, raw<std::int16_t>({1, 2, 100}), 2);
  check_type(4, raw<std::int32_t>({1, 2, 100}), 4);
  check_type(5, raw<std::int64_t>({1, 2, 100}), 8);
  check_type(8, raw<std::uint16_t>({1, 2, 100}), 2);
}

TEST(TokenFile, FollowsPointersAndModes) {
  const TemporaryFolder folder;
  put(folder / "gap.bin", raw<std::uint16_t>({1, 2, 900, 3, 4, 5}));
  put(folder / "gap.idx", index_of(8, {2, 0, 2, 1}, {0, 4, 6, 10}, {0, 1, 1, 4}) + std::string(4, '\0'));  // a mode byte for each sequence
  for (const char* name : {"gap", "gap.bin", "gap.idx"}) {
    const TokenStream stream(folder / name);
    EXPECT_EQ(all(stream), (std::vector<std::int32_t>{1, 2, 3, 4, 5})) << "what lies between sequences is no text";
    EXPECT_EQ(stream.token(2), 3);
    EXPECT_EQ(std::vector<Index>(stream.document_ends().begin(), stream.document_ends().end()), (std::vector<Index>{2, 5}));
  }
}

TEST(TokenFile, ReadsShardsAsOneStream) {
  const TemporaryFolder folder;
  put(folder / "s_000002.bin", shard<std::uint16_t>(20240520, 1, 2, {40000, 50256}));
  put(folder / "s_000001.bin", shard<std::uint16_t>(20240520, 1, 3, {1, 2, 3}));
  put(folder / "llama.bin", shard<std::uint32_t>(20240801, 7, 2, {128000, 4}));
  put(folder / "nano.bin", raw<std::uint16_t>({7, 8}));
  const TokenStream shards(folder / "s_*.bin");
  EXPECT_EQ(all(shards), (std::vector<std::int32_t>{1, 2, 3, 40000, 50256}));
  std::vector<std::int32_t> across(3);
  shards.copy(2, across);
  EXPECT_EQ(across, (std::vector<std::int32_t>{3, 40000, 50256}));
  EXPECT_TRUE(shards.document_ends().empty());
  EXPECT_EQ(all(TokenStream(folder / "llama.bin" + "," + (folder / "s_000001.bin"))), (std::vector<std::int32_t>{128000, 4, 1, 2, 3}));
  EXPECT_EQ(all(TokenStream(folder / "llama", TokenFormat::llmc)), (std::vector<std::int32_t>{128000, 4}));
  EXPECT_EQ(all(TokenStream(folder / "nano.bin", TokenFormat::nanogpt)), (std::vector<std::int32_t>{7, 8}));
  EXPECT_THROW(shards.copy(4, across), Error);
  EXPECT_THROW((void)shards.token(-1), Error);
}

TEST(TokenFile, RefusesIdsBeyondTheVocabulary) {
  const TemporaryFolder folder;
  put(folder / "a.bin", shard<std::uint16_t>(20240520, 1, 2, {1, 2}));
  put(folder / "b.bin", shard<std::uint32_t>(20240801, 7, 3, {3, 100, 4}));
  const TokenStream stream((folder / "a.bin") + "," + (folder / "b.bin"), TokenFormat::automatic, 100);
  EXPECT_EQ(stream.token(2), 3);
  expect_refused([&] { (void)all(stream); }, "holds id 100 at position 3, outside of the vocabulary of 100", folder / "b.bin");
  EXPECT_EQ(all(TokenStream((folder / "a.bin") + "," + (folder / "b.bin"), TokenFormat::automatic, 101)).size(), 5U);
  put(folder / "c.bin", shard<std::uint32_t>(20240801, 7, 1, {std::numeric_limits<std::uint32_t>::max()}));
  expect_refused([&] { (void)TokenStream(folder / "c.bin").token(0); }, "outside of the vocabulary", folder / "c.bin");
}

TEST(TokenFile, RefusesWhatIsNoTokenFile) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& name, const std::string& words, TokenFormat format = TokenFormat::automatic) {
    expect_refused([&] { const TokenStream stream(folder / name, format); }, words, name);
  };
  refused("absent", "No such file");
  refused("absent*", "no token file matches");
  expect_refused([&] { const TokenStream stream(folder.path()); }, "not a regular file", folder.path());
  EXPECT_THROW(TokenStream(""), InputError);

  put(folder / "text.bin", "It was a dark and stormy night");
  refused("text.bin", "foreign");
  refused("text.bin", "foreign", TokenFormat::llmc);
  put(folder / "empty.bin", "");
  refused("empty.bin", "empty");
  refused("empty.bin", "holds no tokens", TokenFormat::nanogpt);
  put(folder / "odd.bin", "abc");
  refused("odd.bin", "16-bit", TokenFormat::nanogpt);
  put(folder / "headed.bin", shard<std::uint16_t>(20240520, 1, 1, {1}));
  refused("headed.bin", "not nanoGPT's", TokenFormat::nanogpt);

  put(folder / "cut.bin", shard<std::uint16_t>(20240520, 1, 4, {1, 2, 3}));
  refused("cut.bin", "truncated: its header promises 4 tokens in 1032 bytes, it has 1030");
  put(folder / "more.bin", shard<std::uint16_t>(20240520, 1, 2, {1, 2, 3}));
  refused("more.bin", "damaged");
  put(folder / "version.bin", shard<std::uint16_t>(20240520, 2, 1, {1}));
  refused("version.bin", "version 2");
  put(folder / "negative.bin", shard<std::uint16_t>(20240520, 1, -1, {}));
  refused("negative.bin", "promises -1");
  put(folder / "most.bin", shard<std::uint32_t>(20240801, 7, std::numeric_limits<std::int32_t>::max(), {1}));
  refused("most.bin", "promises 2147483647 tokens in 8589935612 bytes");
  put(folder / "none.bin", shard<std::uint16_t>(20240520, 1, 0, {}));
  refused("none.bin", "holds no tokens");
  put(folder / "choice.bin", shard<std::uint16_t>(20240522, 1, 1, {1}));
  refused("choice.bin", "evaluation file");
  put(folder / "head.bin", raw<std::int32_t>({20240520, 1}));
  refused("head.bin", "its header alone");

  const std::string bin = raw<std::uint16_t>({1, 2, 3});
  const auto refused_index = [&](const std::string& index, const std::string& words, const std::string& tokens) {
    put(folder / "m.bin", tokens);
    put(folder / "m.idx", index);
    refused("m", words);
  };
  const std::string good = index_of(8, {2, 1}, {0, 4}, {0, 1, 2});
  put(folder / "lonely.idx", good);
  refused("lonely", "No such file");
  refused_index("not an index", "MMIDIDX", bin);
  refused_index(good.substr(0, 20), "truncated", bin);
  refused_index(good.substr(0, good.size() - 1), "truncated", bin);
  refused_index(good, "truncated: sequence 1 ends at byte 6 and the file has 4", raw<std::uint16_t>({1, 2}));
  refused_index(index_of(8, {2, 1}, {0, 4}, {0, 1, 2}, 2), "version 2", bin);
  refused_index(index_of(7, {2, 1}, {0, 4}, {0, 1, 2}), "dtype code 7", bin);
  refused_index(index_of(9, {2, 1}, {0, 4}, {0, 1, 2}), "dtype code 9", bin);
  refused_index(index_of(0, {2, 1}, {0, 4}, {0, 1, 2}), "dtype code 0", bin);
  refused_index(index_of(8, {-2, 1}, {0, 4}, {0, 1, 2}), "sequence 0 has length -2", bin);
  refused_index(index_of(8, {1, 1}, {4, 0}, {0, 1, 2}), "sequence 1 begins at byte 0, before the end of the one before it at 6", bin);
  refused_index(index_of(8, {2, 2}, {0, 2}, {0, 1, 2}), "sequence 1 begins at byte 2, before the end of the one before it at 4", bin);
  refused_index(index_of(8, {2, 2}, {0, 0}, {0, 1, 2}), "sequence 1 begins at byte 0", bin);
  refused_index(index_of(8, {std::numeric_limits<std::int32_t>::max(), 1}, {0, 4}, {0, 1, 2}), "truncated: sequence 0", bin);
  refused_index(index_of(5, {1, 1}, {std::numeric_limits<std::int64_t>::max() - 7, 0}, {0, 1, 2}), "truncated: sequence 0", bin);
  refused_index("", "MMIDIDX", bin);
  refused_index(good, "truncated: sequence 0 ends at byte 4 and the file has 0", "");
  refused_index(index_of(8, {2, 1}, {-4, 4}, {0, 1, 2}), "sequence 0", bin);
  refused_index(index_of(8, {2, 1}, {0, std::numeric_limits<std::int64_t>::max()}, {0, 1, 2}), "truncated", bin);
  refused_index(index_of(8, {2, 1}, {0, 4}, {0, 3}), "document mark 1 is 3", bin);
  refused_index(index_of(8, {2, 1}, {0, 4}, {0, 2, 1}), "document mark 2 is 1", bin);
  refused_index(index_of(8, {2, 1}, {0, 4}, {0, -1, 2}), "document mark 1 is -1", bin);
  refused_index(index_of(8, {}, {}, {0}), "holds no tokens", bin);
  refused_index(index_of(8, {0, 0}, {0, 0}, {0, 2}), "holds no tokens", bin);
  std::string huge = good;
  const std::uint64_t count = std::numeric_limits<std::uint64_t>::max() / 12 + 5;
  std::memcpy(huge.data() + 18, &count, 8);
  refused_index(huge, "truncated", bin);
  huge = good;
  const std::uint64_t many = std::uint64_t{1} << 61;  // times 8 it is nothing
  std::memcpy(huge.data() + 26, &many, 8);
  refused_index(huge, "truncated", bin);

  EXPECT_EQ(token_format("llmc"), TokenFormat::llmc);
  EXPECT_EQ(token_format("auto"), TokenFormat::automatic);
  expect_refused([] { (void)token_format("gpt"); }, "auto, megatron, llmc or nanogpt", "gpt");
}

TEST(TokenFile, SurvivesAnyDamage) {
  const TemporaryFolder folder;
  const std::string index = index_of(8, {2, 1, 3}, {0, 4, 6}, {0, 1, 2, 3});
  put(folder / "m.bin", raw<std::uint16_t>({1, 2, 3, 4, 5, 6}));
  int refused = 0;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    const Random random(key_of(seed, 7));
    std::string damaged = index.substr(0, seed % 5 == 0 ? random.bits(99) % index.size() : index.size());
    if (!damaged.empty()) damaged[random.bits(0) % damaged.size()] = static_cast<char>(random.bits(1) >> (8 * (seed % 2)));
    put(folder / "m.idx", damaged);
    try {
      const TokenStream stream(folder / "m", TokenFormat::automatic, 7);
      EXPECT_LE(stream.length(), 12);
      (void)all(stream);
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(folder / "m"), std::string::npos) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 200);
  EXPECT_LT(refused, 400);
}

}  // namespace
}  // namespace yard
