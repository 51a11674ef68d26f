#include <array>

#include "core/data/added_tokens.h"
#include "core/error.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/pieces.h"
#include "tests/fuzz/tokenizers.h"

/// Files beside a SentencePiece model that add tokens to it, of any bytes: refused by one sentence, or the model and they are a tokenizer.
/// The input's first byte chooses the model: byte pieces or none (1), a space before a text (2), extra spaces dropped (4), unigram (8).
/// tokenizer.json follows, and after zero bytes tokenizer_config.json and added_tokens.json; an empty part is a file that does not exist.

namespace {

using namespace yard;

constexpr std::array kNames = {"tokenizer.json", "tokenizer_config.json", "added_tokens.json"};
constexpr unsigned kModels = 16;

std::string model(unsigned kind) {
  return fuzz::small_model((kind & 8U) != 0, (kind & 2U) != 0, (kind & 4U) != 0) + ((kind & 1U) != 0 ? fuzz::byte_pieces() : "");
}

struct Directory {
  fuzz::Folder folder;
  fuzz::FolderFile tokenizer{folder, "tokenizer.model"};
  std::array<fuzz::FolderFile, kNames.size()> files = {fuzz::FolderFile(folder, kNames[0]), fuzz::FolderFile(folder, kNames[1]),
                                                       fuzz::FolderFile(folder, kNames[2])};
  std::array<std::string, kModels> models;
  Directory() {
    for (unsigned kind = 0; kind < kModels; ++kind) models[kind] = model(kind);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Directory directory;
  if (size == 0) return 0;
  directory.tokenizer.set(directory.models[data[0] % kModels]);
  const auto parts = fuzz::parts_of(data + 1, size - 1, kNames.size());
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (parts[i].empty()) {
      directory.files[i].remove();
    } else {
      directory.files[i].set(parts[i]);
    }
  }
  try {
    fuzz::expect_sound(*open_tokenizer(directory.folder.path() + "/tokenizer.model"), parts[0]);
  } catch (const InputError& error) {
    fuzz::expect_sentence(error.what(), directory.folder.path());
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t limit, unsigned seed) {
  if (size < 2) return LLVMFuzzerMutate(data, size, limit);
  return 1 + yard::fuzz::mutate_text(data + 1, size - 1, limit - 1, seed);
}
