#include "core/data/token_scan.h"

#include <filesystem>
#include <fstream>

#include "core/random.h"
#include "tests/support/support.h"

namespace yard {
namespace {

using test::TemporaryFolder;

bool never() { return false; }

TokenScan scan_of(const TokenStream& stream) {
  TokenScan scan;
  EXPECT_EQ(scan_tokens(stream, 0, stream.length(), scan, never), stream.length());
  return scan;
}

template <class T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

/// Megatron's index of one sequence, or of several with gaps of one id between them.
std::string index_of(std::uint8_t code, std::int64_t width, std::int32_t length, std::int64_t sequences = 1) {
  std::vector<std::int64_t> pointers;
  for (std::int64_t i = 0; i < sequences; ++i) pointers.push_back(i * (length + 1) * width);
  return std::string("MMIDIDX\0\0", 9) + raw<std::uint64_t>({1}) + static_cast<char>(code) +
         raw<std::uint64_t>({static_cast<std::uint64_t>(sequences), 2}) +
         raw(std::vector<std::int32_t>(static_cast<std::size_t>(sequences), length)) + raw(pointers) + raw<std::int64_t>({0, sequences});
}

/// A plain loop, with the first position of each extreme.
template <class T>
TokenScan expected_scan(const std::vector<T>& ids) {
  TokenScan scan{ids[0], ids[0], 0, 0};
  for (std::size_t i = 1; i < ids.size(); ++i) {
    if (std::int64_t{ids[i]} < scan.smallest) scan.smallest = ids[i], scan.smallest_at = static_cast<Index>(i);
    if (std::int64_t{ids[i]} > scan.largest) scan.largest = ids[i], scan.largest_at = static_cast<Index>(i);
  }
  return scan;
}

template <class T>
void expect_scanned(std::uint8_t code, const std::vector<std::int64_t>& extremes) {
  const TemporaryFolder folder;
  for (const std::size_t length : {std::size_t{1}, std::size_t{7}, std::size_t{8192}, std::size_t{40001}}) {
    for (const std::int64_t extreme : extremes) {
      for (const std::size_t at : {std::size_t{0}, length / 2, length - 1}) {
        std::vector<T> ids(length);
        for (std::size_t i = 0; i < length; ++i) ids[i] = static_cast<T>(mix(i) % 100);
        ids[at] = static_cast<T>(extreme);
        put(folder / "t.bin", raw(ids));
        put(folder / "t.idx", index_of(code, sizeof(T), static_cast<std::int32_t>(length)));
        SCOPED_TRACE(testing::Message() << "code " << int{code} << ", " << length << " ids, " << extreme << " at " << at);
        EXPECT_EQ(scan_of(TokenStream(folder / "t")), expected_scan(ids));
      }
    }
  }
}

TEST(TokenScan, FindsTheExtremesOfEveryWidth) {
  expect_scanned<std::uint8_t>(1, {255});
  expect_scanned<std::int8_t>(2, {-128, 127});
  expect_scanned<std::int16_t>(3, {-5, 32000});
  expect_scanned<std::uint16_t>(8, {65535});
  expect_scanned<std::int32_t>(4, {-1, 2147483647});
  expect_scanned<std::int64_t>(5, {-(std::int64_t{1} << 40), std::int64_t{1} << 40});
}

TEST(TokenScan, GapsBetweenSequencesAreNoTokens) {
  const TemporaryFolder folder;
  put(folder / "t.bin", raw<std::uint16_t>({1, 2, 60000, 3, 4, 60000, 5, 6}));
  put(folder / "t.idx", index_of(8, 2, 2, 3));
  EXPECT_EQ(scan_of(TokenStream(folder / "t")), (TokenScan{1, 6, 0, 5}));
}

TEST(TokenScan, PartsOfSeveralFilesMakeTheScanOfTheWhole) {
  const TemporaryFolder folder;
  std::vector<std::uint16_t> first(3000, 7);
  std::vector<std::uint16_t> second(2000, 7);
  first[2999] = 900;
  second[1234] = 900;  // the same id again, which is not the first one
  second[10] = 3;
  put(folder / "a.bin", raw(first));
  put(folder / "b.bin", raw(second));
  const TokenStream stream(folder / "a.bin," + (folder / "b.bin"), TokenFormat::nanogpt);
  const TokenScan whole = scan_of(stream);
  EXPECT_EQ(whole, (TokenScan{3, 900, 3010, 2999}));
  for (const Index parts : {2, 3, 7, 5000}) {
    TokenScan together;
    for (Index part = parts - 1; part >= 0; --part) {  // in any order
      TokenScan mine;
      const Index last = stream.length() * (part + 1) / parts;
      EXPECT_EQ(scan_tokens(stream, stream.length() * part / parts, last, mine, never), last);
      together = merged(together, mine);
    }
    EXPECT_EQ(together, whole) << parts;
  }
  EXPECT_NO_THROW(check_vocabulary(stream, whole, 901));
  try {
    check_vocabulary(stream, {3, 900, 3010, 4234}, 900);
    ADD_FAILURE() << "an id beyond the vocabulary was accepted";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("b.bin holds id 900 at position 4234, outside of the vocabulary of 900"), std::string::npos)
        << error.what();
  }
  EXPECT_THROW(check_vocabulary(stream, {-1, 5, 0, 0}, 900), InputError);
}

TEST(TokenScan, StopsWhereItIsAskedTo) {
  const TokenStream stream(std::vector<std::int32_t>(std::size_t{5} << 20, 1), "ids");
  TokenScan scan;
  int asked = 0;
  const Index next = scan_tokens(stream, 0, stream.length(), scan, [&] { return ++asked == 2; });
  EXPECT_GT(next, 0);
  EXPECT_LT(next, stream.length());
  EXPECT_EQ(scan_tokens(stream, next, stream.length(), scan, never), stream.length());
  EXPECT_EQ(scan, (TokenScan{1, 1, 0, 0}));
}

}  // namespace
}  // namespace yard
