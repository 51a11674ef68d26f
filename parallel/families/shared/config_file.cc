#include "parallel/families/shared/config_file.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace yard {
namespace {

using nlohmann::json;
using Field = google::protobuf::FieldDescriptor;

/// A field of `model`, or of a block in it, and the message that holds it.
struct Found {
  const google::protobuf::Message* holder;
  const Field* field;
};

Found find(const RunConfig::Model& model, std::string_view path) {
  const google::protobuf::Message* holder = &model;
  if (path.starts_with("router.")) {
    holder = &model.router();
    path.remove_prefix(7);
  }
  const Field* field = holder->GetDescriptor()->FindFieldByName(std::string(path));
  check(field != nullptr, "config.proto has no field model.", path);
  return {holder, field};
}

}  // namespace

void ConfigFile::reject_unless(const char* key, const json& only, const std::string& why) {
  const json found = value(key);
  if (!found.is_null() && found != only) reject(std::string(key) + " is " + shown_json(found) + " (" + why + ")");
}

void ConfigFile::check_supported() const {
  std::string words;
  for (const std::string& problem : problems_) words += (words.empty() ? "" : "; ") + problem;
  check_input(words.empty(), "", path_, " asks for what is not supported: ", words);
}

void ConfigFile::read(const ConfigKey& key, RunConfig::Model& model) const {
  json given = value(key.theirs);
  if (given.is_null() && key.alternative != nullptr) given = value(key.alternative);
  check_input(!given.is_null() || !key.required, "", path_, " has no ", key.theirs);
  if (given.is_null()) return;
  const std::string_view ours = key.ours;
  if (ours.starts_with("router.")) model.mutable_router();
  const auto [found, field] = find(model, ours);
  google::protobuf::Message& holder =
      ours.starts_with("router.") ? static_cast<google::protobuf::Message&>(*model.mutable_router()) : model;
  const auto& reflection = *holder.GetReflection();
  const auto wrong = [&](const char* type) {
    fail_input("", path_ + ": " + key.theirs + " is " + shown_json(given) + ", but must be " + type);
  };
  if (field->cpp_type() == Field::CPPTYPE_INT64) {
    const auto number = whole_number(given);
    if (!number) wrong("a whole number");
    reflection.SetInt64(&holder, field, *number);
  } else if (field->cpp_type() == Field::CPPTYPE_BOOL) {
    if (!given.is_boolean()) wrong("true or false");
    reflection.SetBool(&holder, field, given.get<bool>());
  } else {
    if (!given.is_number()) wrong("a number");
    reflection.SetDouble(&holder, field, given.get<double>());
  }
}

void set_number(json& file, const char* key, const json& value) {
  const json found = file.contains(key) ? file[key] : json();
  const bool same = found.is_number() && value.is_number() &&
                    std::abs(found.get<double>() - value.get<double>()) <= 1e-12 * std::abs(value.get<double>());
  if (!same) file[key] = value;
}

json value_for(const ConfigKey& key, const RunConfig::Model& model) {
  const auto [holder, field] = find(model, key.ours);
  const auto& reflection = *holder->GetReflection();
  if (field->cpp_type() == Field::CPPTYPE_INT64) return reflection.GetInt64(*holder, field);
  if (field->cpp_type() == Field::CPPTYPE_BOOL) return reflection.GetBool(*holder, field);
  return reflection.GetDouble(*holder, field);
}

std::vector<ConfigKey> common_keys() {
  return {{"vocab_size", "vocabulary", nullptr, true},
          {"hidden_size", "width", nullptr, true},
          {"intermediate_size", "hidden", nullptr, true},
          {"num_hidden_layers", "layers", nullptr, true},
          {"num_attention_heads", "heads", nullptr, true},
          {"num_key_value_heads", "kv_heads"},
          {"head_dim", "head_width"},
          {"max_position_embeddings", "positions", "max_sequence_length"},
          {"rms_norm_eps", "norm_epsilon"},
          {"tie_word_embeddings", "tied_output"}};
}

std::vector<std::string_view> common_rule_keys() {
  return {"model_type",          "hidden_act",     "rope_theta", "rope_scaling",      "rope_parameters",     "partial_rotary_factor",
          "layer_types",         "attention_bias", "mlp_bias",   "attention_dropout", "quantization_config", "is_encoder_decoder",
          "add_cross_attention", "pruned_heads",   "dtype",      "torch_dtype",       "bos_token_id",        "eos_token_id",
          "architectures"};
}

std::vector<std::string_view> keys_without_effect() {
  return {// of the directory
          "transformers_version", "_name_or_path", "auto_map", "initializer_range", "pad_token_id", "sep_token_id",
          "decoder_start_token_id", "tokenizer_class", "prefix", "pretraining_tp",
          // of transformers' own forward pass
          "use_cache", "use_bfloat16", "return_dict", "output_attentions", "output_hidden_states", "output_router_logits", "torchscript",
          "chunk_size_feed_forward", "is_decoder", "tie_encoder_decoder", "cross_attention_hidden_size", "attn_implementation",
          "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_experts_implementation",
          // of other tasks
          "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "tf_legacy_loss",
          // of generation, which transformers 4 wrote here too
          "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature",
          "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
          "bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id",
          "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"};
}

namespace {
void reject_other_activations(ConfigFile& file) {
  const json activation = file.value("hidden_act");
  const bool other_spelling = activation.is_string() && activation.get<std::string>() == "swish";
  if (!other_spelling) file.reject_unless("hidden_act", "silu", "only \"silu\" works");
}

void reject_scaled_positions(ConfigFile& file) {
  for (const char* scaling : {"rope_scaling", "rope_parameters"}) {
    const json value = file.value(scaling);
    if (value.is_null()) continue;
    const auto member = [&](const char* key) { return value.is_object() && value.contains(key) ? value[key] : json(); };
    json type = value.is_object() ? member("rope_type") : value;
    if (type.is_null()) type = member("type");
    const json part = member("partial_rotary_factor");
    const bool plain = type == "default" || (type.is_null() && value.is_object() && scaling == std::string_view("rope_parameters"));
    if (!plain || !(part.is_null() || part == 1))
      file.reject(std::string(scaling) + " is " + shown_json(value) + " (rotary positions are not scaled)");
  }
  file.reject_unless("partial_rotary_factor", 1, "all values of a head are rotated");
}
}  // namespace

void reject_common(ConfigFile& file) {
  reject_other_activations(file);
  reject_scaled_positions(file);
  for (const char* bias : {"attention_bias", "mlp_bias"}) file.reject_unless(bias, false, "there are no biases");
  file.reject_unless("attention_dropout", 0, "attention has no dropout");
  for (const char* other : {"is_encoder_decoder", "add_cross_attention"}) file.reject_unless(other, false, "models have a decoder only");
  const json heads = file.value("pruned_heads");
  if (!heads.is_null() && !heads.empty()) file.reject("pruned_heads is " + shown_json(heads) + " (all heads are computed)");
  if (!file.value("quantization_config").is_null()) file.reject("quantization_config is set (weights must be bf16, f16 or f32)");
  const json types = file.value("layer_types");
  const bool full = !types.is_array() || std::all_of(types.begin(), types.end(), [](const json& type) { return type == "full_attention"; });
  if (!full) file.reject("layer_types is " + shown_json(types) + " (every layer has full attention)");
}

void read_rotary_base(const ConfigFile& file, RunConfig::Model& model) {
  file.read({"rope_theta", "rope_base"}, model);
  const json parameters = file.value("rope_parameters");
  if (parameters.is_object()) ConfigFile(parameters, file.path()).read({"rope_theta", "rope_base"}, model);
}

void read_balance(const ConfigFile& file, RunConfig& config, double otherwise) {
  const json coefficient = file.value("router_aux_loss_coef");
  check_input(coefficient.is_null() || coefficient.is_number(), "", file.path() + ": router_aux_loss_coef is " + shown_json(coefficient),
              ", but must be a number");
  config.mutable_losses()->set_balance(coefficient.is_null() ? otherwise : coefficient.get<double>());
  config.mutable_losses()->set_convention(RunConfig::Convention::huggingface);
}

void write_balance(const RunConfig& config, json& file) {
  const double balance = config.losses().balance();
  const bool theirs = config.losses().convention() == RunConfig::Convention::huggingface;
  set_number(file, "router_aux_loss_coef",
             theirs ? balance : balance_to_hugging_face(balance, config.model().layers(), config.model().top_k()));
}

double balance_from_hugging_face(double coefficient, std::int64_t moe_layers, std::int64_t top_k) {
  return coefficient * static_cast<double>(top_k) / static_cast<double>(moe_layers);
}

double balance_to_hugging_face(double balance, std::int64_t moe_layers, std::int64_t top_k) {
  return balance * static_cast<double>(moe_layers) / static_cast<double>(top_k);
}

}  // namespace yard
