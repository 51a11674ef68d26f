#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <vector>

#include "core/io/safetensors.h"
#include "tests/fuzz/fuzz.h"

/// A file of any bytes is refused by one sentence, or its tensors fill its data exactly and can be read, whole and by rows, with the same
/// values, or are refused one by one.

namespace {

using namespace yard;

std::vector<std::byte> bytes_of(const Tensor& tensor) {
  const auto* first = static_cast<const std::byte*>(tensor.raw());
  return {first, first + tensor.bytes()};
}

void read_all(const SafetensorsReader& reader, std::size_t size) {
  static Stream stream{Device{}};
  std::uint64_t filled = 0;
  for (const SafetensorsEntry& entry : reader.entries()) {
    fuzz::expect(entry.begin == filled && entry.end >= entry.begin, "a hole or an overlap was accepted");
    filled = entry.end;
    fuzz::expect(entry.elements() >= 0, "a negative number of elements was accepted");
    fuzz::expect(&reader.entry(entry.name) == &entry, "another tensor has the name " + entry.name);
    for (const DType wanted : {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64}) {
      try {
        const Tensor whole = reader.read(stream, entry.name, wanted);
        fuzz::expect(whole.elements() == entry.elements(), "a tensor has another size than the header says");
        const Index half = entry.length() / 2;
        std::vector<std::byte> rows = bytes_of(reader.read_rows(stream, entry.name, 0, half, wanted));
        const auto rest = bytes_of(reader.read_rows(stream, entry.name, half, entry.length() - half, wanted));
        rows.insert(rows.end(), rest.begin(), rest.end());
        fuzz::expect(rows == bytes_of(whole), "rows differ from the whole");
      } catch (const InputError& error) {
        fuzz::expect_sentence(error.what(), reader.path());
      }
    }
  }
  fuzz::expect(filled <= size, "the tensors are larger than the file");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::MemoryFile file;
  file.set(std::as_bytes(std::span(data, size)));
  try {
    const SafetensorsReader reader(file.path());
    read_all(reader, size);
  } catch (const InputError& error) {
    fuzz::expect_sentence(error.what(), file.path());
  }
  return 0;
}

/// Mostly the header is changed and its length set right; else nearly every change would end at the check of the length.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t limit, unsigned seed) {
  constexpr std::size_t kPrefix = 8;
  std::minstd_rand random(seed);
  if (random() % 8 == 0 || size < kPrefix) return LLVMFuzzerMutate(data, size, limit);
  std::uint64_t claimed = 0;
  std::memcpy(&claimed, data, kPrefix);
  const std::size_t length = std::min<std::uint64_t>(claimed, size - kPrefix);
  const std::vector<std::uint8_t> values(data + kPrefix + length, data + size);
  const std::size_t most = limit - kPrefix - values.size();
  const std::uint64_t mutated =
      random() % 2 == 0 ? fuzz::mutate_number(data + kPrefix, length, most, random) : LLVMFuzzerMutate(data + kPrefix, length, most);
  std::memcpy(data, &mutated, kPrefix);
  std::copy(values.begin(), values.end(), data + kPrefix + mutated);
  return kPrefix + mutated + values.size();
}
