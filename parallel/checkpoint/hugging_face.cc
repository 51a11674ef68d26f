#include "parallel/checkpoint/hugging_face.h"

#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <span>
#include <sstream>

#include "core/error.h"
#include "core/io/file.h"
#include "core/shown.h"
#include "parallel/families/shared/family.h"

namespace yard {
namespace {

using nlohmann::json;
using Model = RunConfig::Model;

/// The model_type of a model that belongs to no family.
constexpr const char* kOwnType = "switchyard";
constexpr const char* kGenerationFile = "generation_config.json";

/// The ids of eos_token_id: one number, or a list of them; empty if it is not set.
std::vector<std::int64_t> ids_of(const json& value, const std::string& path) {
  if (value.is_null()) return {};
  const json list = value.is_array() ? value : json::array({value});
  std::vector<std::int64_t> ids;
  for (const json& id : list) {
    const auto number = whole_number(id);
    check_input(number && *number >= 0, "", path, ": eos_token_id is ", shown_json(value), ", but must be a token id or a list of them");
    ids.push_back(*number);
  }
  return ids;
}

/// The tokens at which transformers stops: those of generation_config.json, else those of config.json.
std::vector<std::int64_t> stop_ids(const json& config, const json& generation, const std::string& folder) {
  const auto of = [&](const json& file, const char* name) {
    return file.is_object() ? ids_of(file.value("eos_token_id", json()), folder + "/" + name) : std::vector<std::int64_t>();
  };
  const std::vector<std::int64_t> ids = of(generation, kGenerationFile);
  return ids.empty() ? of(config, "config.json") : ids;
}

/// model.start_token and model.stop_tokens.
void read_tokens(const std::string& folder, const ConfigFile& file, Model& model) {
  const KeptConfig both = kept_config(folder);
  for (const std::int64_t id : stop_ids(both.config, both.generation, folder)) {
    check_input(id < model.vocabulary(), "", folder, ": eos_token_id is ", id, ", beyond the vocabulary of ", model.vocabulary());
    *model.mutable_stop_tokens() += (model.stop_tokens().empty() ? "" : ", ") + std::to_string(id);
  }
  if (const json start = file.value("bos_token_id"); !start.is_null()) {
    const bool valid = start.is_number_integer() && start >= 0 && start < model.vocabulary();
    check_input(valid, "", file.path(), ": bos_token_id is ", shown_json(start), ", beyond the vocabulary of ", model.vocabulary());
    model.set_start_token(start);
  }
  const std::string path = folder + "/tokenizer_config.json";
  if (!path_exists(path)) return;
  const ConfigFile tokenizer(read_json_object(path), path);
  if (tokenizer.value("add_bos_token") == false) model.set_start_token(-1);
}

/// bos_token_id and eos_token_id. Where the directory has the same ids already, in whichever form, nothing changes.
void write_tokens(const Model& model, std::int32_t end_of_text, const KeptConfig& kept, json& file, json& generation) {
  json start = model.has_start_token() ? json(model.start_token()) : end_of_text >= 0 ? json(end_of_text) : json();
  if (start == -1) start = file.value("bos_token_id", json());  // only the tokenizer's files say that none is put before a text
  if (!start.is_null() && file.value("bos_token_id", json()) != start) {
    file["bos_token_id"] = start;
    generation["bos_token_id"] = start;
  }
  std::vector<std::int32_t> stop = stop_tokens(model);
  if (stop.empty() && end_of_text >= 0) stop = {end_of_text};
  std::vector<std::int64_t> before = stop_ids(kept.config, kept.generation, "");
  std::sort(before.begin(), before.end());
  if (stop.empty()) return;
  if (std::equal(stop.begin(), stop.end(), before.begin(), before.end())) {
    // In their order: transformers pads with the first one.
    if (!file.contains("eos_token_id")) file["eos_token_id"] = generation["eos_token_id"];
    return;
  }
  file["eos_token_id"] = stop.size() == 1 ? json(stop[0]) : json(stop);
  generation["eos_token_id"] = file["eos_token_id"];
}

/// Keys of generation_config.json by which transformers changes which tokens follow, and that generate does not apply.
std::vector<std::string> unapplied_keys(const json& generation) {
  const std::vector<std::pair<const char*, json>> neutral = {{"repetition_penalty", 1},
                                                             {"encoder_repetition_penalty", 1},
                                                             {"no_repeat_ngram_size", 0},
                                                             {"encoder_no_repeat_ngram_size", 0},
                                                             {"min_length", 0},
                                                             {"min_new_tokens", 0},
                                                             {"num_beams", 1},
                                                             {"guidance_scale", 1},
                                                             {"bad_words_ids", nullptr},
                                                             {"suppress_tokens", nullptr},
                                                             {"begin_suppress_tokens", nullptr},
                                                             {"forced_bos_token_id", nullptr},
                                                             {"forced_eos_token_id", nullptr},
                                                             {"sequence_bias", nullptr},
                                                             {"exponential_decay_length_penalty", nullptr},
                                                             {"penalty_alpha", nullptr},
                                                             {"dola_layers", nullptr},
                                                             {"watermarking_config", nullptr},
                                                             {"stop_strings", nullptr}};
  std::vector<std::string> keys;
  for (const auto& [key, none] : neutral) {
    const json value = generation.is_object() ? generation.value(key, json()) : json();
    if (!value.is_null() && value != none) keys.emplace_back(key);
  }
  return keys;
}

/// Keys that are neither read nor known to have no effect.
std::vector<std::string> unknown_keys(const ConfigFile& file, const Family& family) {
  std::set<std::string_view> known;
  for (const auto& keys : {common_keys(), family.keys}) {
    for (const ConfigKey& key : keys) {
      known.insert(key.theirs);
      if (key.alternative != nullptr) known.insert(key.alternative);
    }
  }
  for (const auto& keys : {common_rule_keys(), keys_without_effect(), family.rule_keys}) known.insert(keys.begin(), keys.end());
  std::vector<std::string> unknown;
  for (const auto& [key, value] : file.content().items()) {
    if (!known.contains(key)) unknown.push_back(shown(key));
  }
  return unknown;
}

/// "a, b, c", at most ten of them and the number of the rest.
std::string first_of(const std::vector<std::string>& words) {
  constexpr std::size_t kListed = 10;
  const auto listed = std::span(words).first(std::min(words.size(), kListed));
  return fmt::format("{}{}", fmt::join(listed, ", "), words.size() > kListed ? fmt::format(" and {} more", words.size() - kListed) : "");
}

void read_precision(const ConfigFile& file, RunConfig& config) {
  json dtype = file.value("dtype");
  if (dtype.is_null()) dtype = file.value("torch_dtype");
  if (dtype.is_null()) return;  // auto
  config.mutable_run()->set_precision(dtype == "bfloat16" ? RunConfig::Precision::bf16 : RunConfig::Precision::f32);
}

void read_own(const ConfigFile& file, Model& model) {
  const auto status = google::protobuf::util::JsonStringToMessage(file.value(kOwnType).dump(), &model);
  check_input(status.ok(), "", file.path(), ": '", kOwnType, "' is no model of this version: ", shown(std::string(status.message()), 300));
}

json own_model(const Model& model) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(model, &text, options);
  check(status.ok(), "cannot write the model as JSON: ", status.ToString());
  return parse_json(text);
}

/// The family that a resolved model belongs to exactly, or null.
const Family* family_of(const std::vector<Family>& table, const Model& model) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const Family& family) { return family.matches(model); });
  return found == table.end() ? nullptr : &*found;
}

}  // namespace

HuggingFaceConfig read_hugging_face_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  check_input(path_exists(path), "cannot read ", path, "; a Hugging Face directory has one");
  ConfigFile file(read_json_object(path), path);
  HuggingFaceConfig result;
  const json type = file.value("model_type");
  result.family = type.is_string() ? type.get<std::string>() : "";
  Model& model = *result.config.mutable_model();
  read_precision(file, result.config);
  if (result.family == kOwnType) {
    read_own(file, model);
    return result;
  }
  const std::vector<Family> table = family_table();
  const Family* family = find_family(table, result.family);
  std::string known;
  for (const Family& each : table) known += (known.empty() ? "" : ", ") + std::string(each.model_type);
  check_input(family != nullptr, "", path, " has model_type ", shown_json(type), "; those that can be read are ", known, " and ", kOwnType);
  reject_common(file);
  family->reject(file);
  file.check_supported();

  for (const ConfigKey& key : common_keys()) file.read(key, model);
  for (const ConfigKey& key : family->keys) file.read(key, model);
  family->read(file, result.config);
  read_tokens(folder, file, model);
  const std::vector<std::string> unknown = unknown_keys(file, *family);
  if (!unknown.empty()) result.notices.push_back(path + " has keys that have no effect here: " + first_of(unknown));
  const std::vector<std::string> unapplied = unapplied_keys(kept_config(folder).generation);
  if (!unapplied.empty())
    result.notices.push_back(
        fmt::format("{}/{} sets what generate does not apply: {}", folder, kGenerationFile, fmt::join(unapplied, ", ")));
  return result;
}

KeptConfig kept_config(const std::string& folder) {
  const auto content = [&](const char* name) {
    const std::string path = folder + "/" + name;
    return path_exists(path) ? read_json_object(path) : json();
  };
  return {content("config.json"), content(kGenerationFile)};
}

std::vector<std::int32_t> stop_tokens(const Model& model) {
  std::vector<std::int32_t> ids;
  if (!model.has_stop_tokens()) return ids;
  std::istringstream words(model.stop_tokens());
  for (std::string word; std::getline(words, word, ',');) {
    std::istringstream number(word);
    std::int64_t id = -1;
    std::string rest;
    const bool valid = number >> id && !(number >> rest) && id >= 0 && id < model.vocabulary();
    check_input(valid, "model.stop_tokens is '", shown(model.stop_tokens()), "', but must be token ids below model.vocabulary (",
                model.vocabulary(), ") separated by commas, such as '2, 300'");
    ids.push_back(static_cast<std::int32_t>(id));
  }
  check_input(!ids.empty(), "model.stop_tokens is empty, but must be token ids separated by commas, such as '2, 300'");
  std::sort(ids.begin(), ids.end());
  return ids;
}

std::map<std::string, std::string> hugging_face_configs(const RunConfig& config, DType weights, std::int32_t end_of_text,
                                                        const KeptConfig& kept) {
  const Model& model = config.model();
  const std::vector<Family> table = family_table();
  const Family* family = family_of(table, model);
  const json type = family != nullptr ? family->model_type : kOwnType;
  const bool same = kept.config.is_object() && kept.config.value("model_type", json()) == type;
  json file = same ? kept.config : json::object();
  json generation = kept.generation.is_object() ? kept.generation : json{{"do_sample", false}};

  // A directory's own keys, which may be fewer than those that are set below, keep their spelling.
  const auto keep_or_set = [&](const char* key, const json& value) {
    if (!file.contains(key)) file[key] = value;
  };
  file["model_type"] = type;
  file["architectures"] = json::array({family != nullptr ? family->architecture : "SwitchyardForCausalLM"});
  std::vector<ConfigKey> keys = common_keys();
  if (family != nullptr) keys.insert(keys.end(), family->keys.begin(), family->keys.end());
  for (const ConfigKey& key : keys) {
    set_number(file, key.theirs, value_for(key, model));
    if (key.alternative != nullptr) file.erase(key.alternative);
  }
  file["hidden_act"] =
      model.activation() == RunConfig::Activation::gelu_tanh ? "gelu_pytorch_tanh" : RunConfig::Activation::Value_Name(model.activation());
  set_number(file, "rope_theta", model.rope_base());
  file["rope_parameters"] = {{"rope_theta", file["rope_theta"]}, {"rope_type", "default"}};
  file["dtype"] = weights == DType::bf16 ? "bfloat16" : "float32";
  file["torch_dtype"] = file["dtype"];
  keep_or_set("initializer_range", config.init().deviation());
  keep_or_set("attention_dropout", 0.0);
  keep_or_set("use_cache", true);
  if (family == nullptr) {
    file[kOwnType] = own_model(model);
  } else {
    family->write(config, file);
  }
  write_tokens(model, end_of_text, kept, file, generation);
  return {{"config.json", file.dump(2) + "\n"}, {kGenerationFile, generation.dump(2) + "\n"}};
}

NameTable names_of_family(const std::string& model_type) {
  const std::vector<Family> table = family_table();
  const Family* family = find_family(table, model_type);
  return family != nullptr ? family->names : NameTable();
}

NameTable names_of_model(const RunConfig& resolved) {
  const std::vector<Family> table = family_table();
  const Family* family = family_of(table, resolved.model());
  return family != nullptr ? family->names : NameTable();
}

bool may_be_left_over(const std::string& tensor, bool tied_output) {
  return tensor.ends_with(".rotary_emb.inv_freq") || (tied_output && tensor == "lm_head.weight");
}

}  // namespace yard
