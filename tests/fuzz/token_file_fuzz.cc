#include <algorithm>
#include <cstring>
#include <filesystem>
#include <random>
#include <vector>

#include "core/data/token_file.h"
#include "tests/fuzz/fuzz.h"

/// Token files of any bytes are refused by one sentence, or hold ids of the vocabulary only, or are refused when the first other one is
/// copied. The input's first byte is the format (0 automatic, 1 Megatron, 2 llm.c, 3 nanoGPT), the second the vocabulary (0: any); for
/// Megatron two bytes follow, the length of the index, the index itself, and the tokens.

namespace {

using namespace yard;

/// Megatron's two files have one name, so that they lie in a folder, as links.
struct Files {
  fuzz::MemoryFile tokens, index;
  fuzz::Folder folder;
  std::string prefix = folder.path() + "/m";
  Files() {
    std::filesystem::create_symlink(tokens.path(), prefix + ".bin");
    std::filesystem::create_symlink(index.path(), prefix + ".idx");
  }
};

template <class T>
T value_at(std::span<const std::byte> bytes, std::uint64_t offset) {
  fuzz::expect(offset <= bytes.size() && sizeof(T) <= bytes.size() - offset, "what lies outside of a file was accepted");
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

std::int64_t id_at(std::span<const std::byte> tokens, std::uint64_t offset, int code) {
  switch (code) {
    case 1:
      return value_at<std::uint8_t>(tokens, offset);
    case 2:
      return value_at<std::int8_t>(tokens, offset);
    case 3:
      return value_at<std::int16_t>(tokens, offset);
    case 4:
      return value_at<std::int32_t>(tokens, offset);
    case 5:
      return value_at<std::int64_t>(tokens, offset);
    case 8:
      return value_at<std::uint16_t>(tokens, offset);
    default:
      fuzz::found("a type of ids that there is none of was accepted");
  }
}

/// The ids of files that were accepted, by the formats' descriptions and nothing else; ends the program where a file breaks them.
std::vector<std::int64_t> ids_of(TokenFormat format, std::span<const std::byte> index, std::span<const std::byte> tokens) {
  std::vector<std::int64_t> ids;
  if (format == TokenFormat::megatron) {
    constexpr std::uint64_t kHeader = 34;
    const int code = value_at<std::uint8_t>(index, 17);
    const std::uint64_t width = code <= 2 ? 1 : code == 4 ? 4 : code == 5 ? 8 : 2;
    const auto sequences = value_at<std::uint64_t>(index, 18);
    std::uint64_t end = 0;
    for (std::uint64_t i = 0; i < sequences; ++i) {
      const auto length = value_at<std::int32_t>(index, kHeader + 4 * i);
      const auto pointer = value_at<std::int64_t>(index, kHeader + 4 * sequences + 8 * i);
      fuzz::expect(length >= 0 && pointer >= 0 && static_cast<std::uint64_t>(pointer) >= end, "sequences that overlap were accepted");
      end = static_cast<std::uint64_t>(pointer) + static_cast<std::uint64_t>(length) * width;
      fuzz::expect(end <= tokens.size(), "a sequence beyond the file was accepted");
      for (std::int64_t k = 0; k < length; ++k)
        ids.push_back(id_at(tokens, static_cast<std::uint64_t>(pointer) + width * static_cast<std::uint64_t>(k), code));
    }
  } else {
    const bool plain = format == TokenFormat::nanogpt;
    const bool wide = !plain && value_at<std::int32_t>(tokens, 0) == 20240801;
    const std::uint64_t first = plain ? 0 : 1024;
    const std::uint64_t width = wide ? 4 : 2;
    for (std::uint64_t at = first; at < tokens.size(); at += width) {
      ids.push_back(wide ? std::int64_t{value_at<std::uint32_t>(tokens, at)} : value_at<std::uint16_t>(tokens, at));
    }
  }
  return ids;
}

void read_all(const TokenStream& stream, Index vocabulary, const std::vector<std::int64_t>& expected) {
  fuzz::expect(stream.length() == static_cast<Index>(expected.size()), "the stream has another length than the files say");
  Index before = 0;
  for (const Index end : stream.document_ends()) {
    fuzz::expect(end >= before && end <= stream.length(), "a document ends outside of the stream");
    before = end;
  }
  constexpr Index kPiece = 61;
  std::vector<std::int32_t> ids;
  for (Index first = 0; first < stream.length(); first += kPiece) {
    ids.assign(static_cast<std::size_t>(std::min(kPiece, stream.length() - first)), -1);
    stream.copy(first, ids);
    for (const std::int32_t id : ids) fuzz::expect(id >= 0 && (vocabulary == 0 || id < vocabulary), "an id outside of the vocabulary");
    fuzz::expect(std::equal(ids.begin(), ids.end(), expected.begin() + first), "an id differs from what the file holds");
  }
  fuzz::expect(stream.token(stream.length() - 1) == ids.back(), "a token alone differs from the same one in a row");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Files files;
  std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  if (bytes.size() < 2) return -1;
  const auto format = static_cast<TokenFormat>(data[0] % 4);
  const Index vocabulary = data[1];
  bytes = bytes.subspan(2);
  std::string path = files.tokens.path();
  std::span<const std::byte> tokens = bytes;
  std::span<const std::byte> index;
  if (format == TokenFormat::megatron) {
    if (bytes.size() < 2) return -1;
    const std::size_t length = std::min<std::size_t>(data[2] + 256U * data[3], bytes.size() - 2);
    index = bytes.subspan(2, length);
    files.index.set(index);
    tokens = bytes.subspan(2 + length);
    path = files.prefix;
  }
  files.tokens.set(tokens);
  try {
    const TokenStream stream(path, format, vocabulary);
    fuzz::expect(stream.length() > 0, "a stream without tokens was accepted");
    read_all(stream, vocabulary, ids_of(format, index, tokens));
  } catch (const InputError& error) {
    fuzz::expect_sentence(error.what(), path);
  }
  return 0;
}

/// Half of the changes move one number of a header or an index a little, or to where arithmetic breaks, or take the last byte away: what
/// random bytes hardly ever do while all else stays right.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t limit, unsigned seed) {
  std::minstd_rand random(seed);
  constexpr std::size_t kIndex = 4;  // where Megatron's index begins
  constexpr std::size_t kHeader = 34;
  if (random() % 2 == 0 || size < 16) return LLVMFuzzerMutate(data, size, limit);
  if (random() % 4 == 0) return size - 1;
  const bool megatron = data[0] % 4 == static_cast<int>(TokenFormat::megatron);
  const bool counts = random() % 3 == 0;
  const std::size_t first = !megatron ? 2 : counts ? kIndex + 18 : kIndex + kHeader;
  const std::size_t last = std::min<std::size_t>(size, !megatron ? 14 : counts ? kIndex + kHeader : kIndex + data[2] + 256U * data[3]);
  const std::size_t at = first + 4 * (random() % 32);
  if (at + 4 > last) return LLVMFuzzerMutate(data, size, limit);
  std::uint32_t value = 0;
  std::memcpy(&value, data + at, 4);
  if (random() % 4 == 0) value = random() % 2 == 0 ? 0x80000000U : 0;
  value += static_cast<std::uint32_t>(random() % 9) - 4;
  std::memcpy(data + at, &value, 4);
  return size;
}
