#include "core/data/sentencepiece.h"

#include "core/error.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/pieces.h"
#include "tests/fuzz/tokenizers.h"

/// A tokenizer.model of any bytes is refused by one sentence, or is a tokenizer. After an odd first byte the file has 256 byte pieces more
/// than the input says: messages of protobuf can be written one after the other.

using namespace yard;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::Folder folder;
  static fuzz::FolderFile file(folder, "tokenizer.model");
  static const std::string bytes = fuzz::byte_pieces();
  if (size == 0) return 0;
  const std::string_view model(reinterpret_cast<const char*>(data) + 1, size - 1);
  file.set(std::string(model) + (data[0] % 2 == 1 ? bytes : ""));
  const std::string path = folder.path() + "/tokenizer.model";
  try {
    fuzz::expect_sound(*open_tokenizer(path), model);
  } catch (const InputError& error) {
    fuzz::expect_sentence(error.what(), path);
  }
  return 0;
}
