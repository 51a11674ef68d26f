#include "launch/checkpoint_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "core/data/hugging_face_tokenizer.h"
#include "core/io/file.h"
#include "launch/config_reader.h"
#include "parallel/checkpoint/folder.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/families/shared/config_file.h"

namespace yard {

namespace fs = std::filesystem;

namespace {
constexpr const char* kTokenizerFile = "tokenizer.model";

/// The files of a directory that belong to its tokenizer.
constexpr std::array kTokenizerFiles = {kTokenizerFile,      "tokenizer.json",      "tokenizer_config.json", "special_tokens_map.json",
                                        "added_tokens.json", "chat_template.jinja", "chat_template.json",    "vocab.json",
                                        "merges.txt"};

/// Mixture-of-Experts layers of a model that need not be resolved.
std::int64_t moe_layers(const RunConfig::Model& model) {
  return model.layers() / model.moe_every() - std::min(model.first_dense_layers(), model.layers()) / model.moe_every();
}

/// Takes the coefficient of the balance loss from a checkpoint's configuration, converted to the convention in force, unless one is given.
/// A Hugging Face directory does not choose the convention, a run does.
void inherit_balance(const RunConfig& from, RunConfig& config) {
  const std::int64_t layers = moe_layers(config.model());
  if (config.losses().has_balance() || !from.losses().has_balance() || config.model().experts() == 1 || layers == 0) return;
  const auto theirs = from.losses().convention();
  const bool of_run = from.losses().has_scope();  // resolved
  if (of_run && !config.losses().has_convention()) config.mutable_losses()->set_convention(theirs);
  const auto ours = config.losses().convention();
  double balance = from.losses().balance();
  const std::int64_t top_k = config.model().has_top_k() ? config.model().top_k() : 2;
  if (theirs != ours) {
    balance = theirs == RunConfig::Convention::huggingface ? balance_from_hugging_face(balance, layers, top_k)
                                                           : balance_to_hugging_face(balance, layers, top_k);
  }
  config.mutable_losses()->set_balance(balance);
}
}  // namespace

HuggingFaceConfig config_of_checkpoint(const std::string& folder) {
  if (!path_exists(folder + "/state.json")) return read_hugging_face_config(folder);
  HuggingFaceConfig result;
  result.config = parse_config(read_state(folder).config(), folder + "/state.json");
  return result;
}

std::vector<std::string> directory_notices(const std::string& folder) {
  if (path_exists(folder + "/state.json")) return {};
  std::vector<std::string> notices = read_hugging_face_config(folder).notices;
  const std::vector<std::string> files = model_files(folder);
  const bool several = files.size() > 1;
  std::string sentence =
      several ? fmt::format("the weights in {} are read from {} files, {} to {}", folder, files.size(), files.front(), files.back())
              : fmt::format("the weights in {} are read from {}", folder, fmt::join(files, ""));
  if (!several && path_exists(folder + "/model.safetensors.index.json"))
    sentence += "; model.safetensors.index.json and its files are ignored, as transformers does";
  notices.push_back(sentence);
  return notices;
}

std::string tokenizer_of_checkpoint(const std::string& folder, const RunConfig& config) {
  const fs::path file = fs::path(folder) / kTokenizerFile;
  if (path_exists(file.string())) return file.string();
  return config.data().has_tokenizer() ? config.data().tokenizer() : std::string();  // of a run whose tokenizer has no file: bytes
}

std::unique_ptr<const Tokenizer> open_tokenizer_of(const std::string& folder, const RunConfig& config) {
  const std::string name = tokenizer_of_checkpoint(folder, config);
  check_input(!name.empty(), "", folder, " has no ", kTokenizerFile,
              path_exists(folder + "/tokenizer.json") ? ", only a tokenizer.json, which is not read here" : "",
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
  inherit_balance(from.config, config);
  if (!given.data().has_tokenizer()) {
    std::string tokenizer = tokenizer_of_checkpoint(folder, from.config);
    // One that cannot be read is not replaced by the default.
    if (tokenizer.empty() && path_exists(folder + "/tokenizer.json")) tokenizer = "none";
    if (!tokenizer.empty()) config.mutable_data()->set_tokenizer(tokenizer);
    const bool default_end = config.data().tokenizer() == "bytes" && from.config.data().end_of_text() == byte_tokenizer()->end_of_text();
    if (!given.data().has_end_of_text() && from.config.data().has_end_of_text() && !default_end)
      config.mutable_data()->set_end_of_text(from.config.data().end_of_text());
  }
  return config;
}

std::map<std::string, std::string> checkpoint_texts(const RunConfig& config, DType weights, const Tokenizer* tokenizer,
                                                    const std::string& source) {
  const auto end_of_text = static_cast<std::int32_t>(config.data().has_end_of_text() ? config.data().end_of_text() : -1);
  std::map<std::string, std::string> texts =
      hugging_face_configs(config, weights, end_of_text, source.empty() ? KeptConfig() : kept_config(source));
  std::map<std::string, std::string> kept;
  for (const char* name : kTokenizerFiles) {
    const fs::path file = fs::path(source) / name;
    if (!source.empty() && path_exists(file.string())) kept[name] = read_text_file(file.string());
  }
  if (tokenizer == nullptr) {
    texts.insert(kept.begin(), kept.end());
    return texts;
  }
  const bool bytes = config.data().tokenizer() == "bytes";
  if (!bytes) texts[kTokenizerFile] = MappedFile(config.data().tokenizer()).text();
  const bool same = !bytes && kept.contains(kTokenizerFile) && kept.at(kTokenizerFile) == texts.at(kTokenizerFile);
  if (same) texts.insert(kept.begin(), kept.end());
  if (!same || kept.size() == 1) {
    const HuggingFaceTokenizer files = hugging_face_tokenizer(*tokenizer);
    texts["tokenizer.json"] = files.tokenizer_json;
    texts["tokenizer_config.json"] = files.config_json;
  }
  return texts;
}

}  // namespace yard
