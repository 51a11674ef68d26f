#include "parallel/checkpoint/hugging_face.h"

#include <algorithm>
#include <array>
#include <map>

#include "core/error.h"
#include "core/io/json.h"
#include "tests/fuzz/configurations.h"
#include "tests/fuzz/fuzz.h"

/// A Hugging Face directory of any bytes is refused by one sentence, or its model is what the files say, and stays the same when it is
/// written and read again. The input is config.json, and after zero bytes generation_config.json and tokenizer_config.json; an empty part
/// is a file that does not exist.

namespace {

using namespace yard;
using nlohmann::json;

constexpr std::array kNames = {"config.json", "generation_config.json", "tokenizer_config.json"};

struct Directory {
  fuzz::Folder folder;
  std::array<fuzz::FolderFile, kNames.size()> files = {fuzz::FolderFile(folder, kNames[0]), fuzz::FolderFile(folder, kNames[1]),
                                                       fuzz::FolderFile(folder, kNames[2])};
  void set(std::size_t file, std::string_view text) {
    if (text.empty()) {
      files[file].remove();
    } else {
      files[file].set(text);
    }
  }
};

/// Whether the numbers of a configuration are those of the file, where they are whole.
void expect_numbers(const json& file, const RunConfig::Model& model) {
  const std::map<std::string, std::int64_t> read = {{"vocab_size", model.vocabulary()},     {"hidden_size", model.width()},
                                                    {"intermediate_size", model.hidden()},  {"num_hidden_layers", model.layers()},
                                                    {"num_attention_heads", model.heads()}, {"num_key_value_heads", model.kv_heads()},
                                                    {"head_dim", model.head_width()},       {"max_position_embeddings", model.positions()}};
  for (const auto& [key, value] : read) {
    const json given = file.value(key, json());
    if (given.is_null()) continue;
    // As text: a number beyond 64 bits is equal to none.
    fuzz::expect(given.dump() == std::to_string(value), key + " is " + given.dump().substr(0, 100) + ", read as " + std::to_string(value));
  }
}

RunConfig as_run(HuggingFaceConfig read) {
  RunConfig config = std::move(read.config);
  config.mutable_data()->set_length(1);
  config.mutable_data()->set_global_batch(1);
  return fuzz::resolved(config);
}

void round_trip(const Directory& directory, Directory& copy, std::string_view tokenizer) {
  const HuggingFaceConfig read = read_hugging_face_config(directory.folder.path());
  for (const std::string& notice : read.notices) fuzz::expect_sentence(notice, directory.folder.path(), 1500);
  const KeptConfig kept = kept_config(directory.folder.path());
  if (read.family != "switchyard") expect_numbers(kept.config, read.config.model());
  const RunConfig config = as_run(read);
  const DType weights = config.run().precision() == RunConfig::Precision::bf16 ? DType::bf16 : DType::f32;
  const auto write = [&](const RunConfig& resolved, const KeptConfig& from, std::int32_t end_of_text) {
    auto texts = hugging_face_configs(resolved, weights, end_of_text, from);
    for (const auto& [name, text] : texts) fuzz::expect(parse_json(text).is_object(), name + " is written as something else than JSON");
    return texts;
  };
  const auto texts = write(config, kept, -1);
  (void)write(config, {}, 1);
  copy.set(0, texts.at(kNames[0]));
  copy.set(1, texts.at(kNames[1]));
  copy.set(2, tokenizer);
  try {
    const RunConfig again = as_run(read_hugging_face_config(copy.folder.path()));
    fuzz::expect(again.model().SerializeAsString() == config.model().SerializeAsString(),
                 "the model differs when it is read back:\n" + config.model().DebugString() + "\nbecame\n" + again.model().DebugString());
    if (config.model().experts() > 1 && read.family != "switchyard")
      fuzz::expect(again.losses().SerializeAsString() == config.losses().SerializeAsString(), "losses differ when they are read back");
    fuzz::expect(write(again, kept_config(copy.folder.path()), -1) == texts, "the files differ when they are written again");
  } catch (const InputError& error) {
    fuzz::found(std::string("what was written is refused: ") + error.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Directory directory;
  static Directory copy;
  const auto parts = fuzz::parts_of(data, size, kNames.size());
  for (std::size_t i = 0; i < kNames.size(); ++i) directory.set(i, parts[i]);
  try {
    round_trip(directory, copy, parts[2]);
  } catch (const InputError& error) {
    fuzz::expect_sentence(error.what(), "", 4000);  // it lists everything that is not supported
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t limit, unsigned seed) {
  return fuzz::mutate_text(data, size, limit, seed);
}
