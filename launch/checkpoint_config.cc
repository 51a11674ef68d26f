#include "launch/checkpoint_config.h"

#include <filesystem>

#include "core/data/hugging_face_tokenizer.h"
#include "core/io/file.h"
#include "launch/config_reader.h"
#include "parallel/checkpoint/folder.h"

namespace yard {

namespace fs = std::filesystem;

namespace {
constexpr const char* kTokenizerFile = "tokenizer.model";
}  // namespace

HuggingFaceConfig config_of_checkpoint(const std::string& folder) {
  if (!fs::exists(fs::path(folder) / "state.json")) return read_hugging_face_config(folder);
  HuggingFaceConfig result;
  result.config = parse_config(read_state(folder).config(), folder + "/state.json");
  return result;
}

std::string tokenizer_of_checkpoint(const std::string& folder, const RunConfig& config) {
  const fs::path file = fs::path(folder) / kTokenizerFile;
  if (fs::exists(file)) return file.string();
  return config.data().has_tokenizer() ? config.data().tokenizer() : std::string();  // of a run whose tokenizer has no file: bytes
}

std::unique_ptr<const Tokenizer> open_tokenizer_of(const std::string& folder, const RunConfig& config) {
  const std::string name = tokenizer_of_checkpoint(folder, config);
  check_input(!name.empty(), "", folder, " has no ", kTokenizerFile,
              fs::exists(fs::path(folder) / "tokenizer.json") ? ", only a tokenizer.json, which is not read here" : "",
              ": put the SentencePiece model of its tokenizer beside the weights under that name, or work with token ids (eval --ids)");
  return open_tokenizer(name);
}

RunConfig with_initial_checkpoint(RunConfig given) {
  if (given.init().checkpoint().empty()) return given;
  const std::string folder = find_checkpoint(given.init().checkpoint());
  const HuggingFaceConfig from = config_of_checkpoint(folder);
  RunConfig config = given;
  *config.mutable_model() = from.config.model();
  // Of the batch that it was trained with, not of the model.
  config.mutable_model()->mutable_router()->clear_group_sequences();
  // The settings of one router mean nothing to another.
  const auto& router = given.model().router();
  if (router.has_kind() && router.kind() != config.model().router().kind()) config.mutable_model()->clear_router();
  config.mutable_model()->MergeFrom(given.model());
  if (!given.losses().has_balance() && from.config.losses().has_balance() && !fs::exists(fs::path(folder) / "state.json"))
    config.mutable_losses()->set_balance(from.config.losses().balance());
  if (!given.data().has_tokenizer()) {
    if (const std::string tokenizer = tokenizer_of_checkpoint(folder, from.config); !tokenizer.empty())
      config.mutable_data()->set_tokenizer(tokenizer);
    const bool default_end = config.data().tokenizer() == "bytes" && from.config.data().end_of_text() == byte_tokenizer()->end_of_text();
    if (!given.data().has_end_of_text() && from.config.data().has_end_of_text() && !default_end)
      config.mutable_data()->set_end_of_text(from.config.data().end_of_text());
  }
  check_input(from.window == 0 || from.window >= config.data().length(), "the model in ", folder, " attends to the last ", from.window,
              " tokens only (sliding_window), which is not supported for a data.length of ", config.data().length(),
              ": set data.length to at most ", from.window);
  return config;
}

std::map<std::string, std::string> checkpoint_texts(const RunConfig& config, DType weights, const Tokenizer* tokenizer) {
  const auto end_of_text = static_cast<std::int32_t>(config.data().has_end_of_text() ? config.data().end_of_text() : -1);
  std::map<std::string, std::string> texts = {{"config.json", hugging_face_config(config, weights, end_of_text)},
                                              {"generation_config.json", hugging_face_generation_config(end_of_text)}};
  if (tokenizer == nullptr) return texts;
  if (config.data().tokenizer() != "bytes") texts[kTokenizerFile] = MappedFile(config.data().tokenizer()).text();
  const HuggingFaceTokenizer files = hugging_face_tokenizer(*tokenizer);
  texts["tokenizer.json"] = files.tokenizer_json;
  texts["tokenizer_config.json"] = files.config_json;
  return texts;
}

}  // namespace yard
