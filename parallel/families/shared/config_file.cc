#include "parallel/families/shared/config_file.h"

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
  if (!found.is_null() && found != only) reject(std::string(key) + " is " + found.dump() + " (" + why + ")");
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
  const auto wrong = [&](const char* type) { fail_input("", path_ + ": " + key.theirs + " is " + given.dump() + ", but must be " + type); };
  if (field->cpp_type() == Field::CPPTYPE_INT64) {
    if (!given.is_number_integer()) wrong("a whole number");
    reflection.SetInt64(&holder, field, given.get<std::int64_t>());
  } else if (field->cpp_type() == Field::CPPTYPE_BOOL) {
    if (!given.is_boolean()) wrong("true or false");
    reflection.SetBool(&holder, field, given.get<bool>());
  } else {
    if (!given.is_number()) wrong("a number");
    reflection.SetDouble(&holder, field, given.get<double>());
  }
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
          {"max_position_embeddings", "positions"},
          {"rms_norm_eps", "norm_epsilon"},
          {"tie_word_embeddings", "tied_output"}};
}

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
    if (type.is_null() && value.is_object() && scaling == std::string_view("rope_parameters")) continue;
    if (type != "default") file.reject(std::string(scaling) + " is " + value.dump() + " (rotary positions are not scaled)");
  }
}

void reject_biases(ConfigFile& file) {
  for (const char* bias : {"attention_bias", "mlp_bias"}) file.reject_unless(bias, false, "there are no biases");
}

void read_rotary_base(const ConfigFile& file, RunConfig::Model& model) {
  file.read({"rope_theta", "rope_base"}, model);
  const json parameters = file.value("rope_parameters");
  if (parameters.is_object()) ConfigFile(parameters, file.path()).read({"rope_theta", "rope_base"}, model);
}

void read_balance(const ConfigFile& file, RunConfig& config) {
  const json coefficient = file.value("router_aux_loss_coef");
  if (!coefficient.is_number()) return;
  config.mutable_losses()->set_balance(balance_from_hugging_face(coefficient, config.model().layers(), config.model().top_k()));
}

void write_balance(const RunConfig& config, json& file) {
  const double balance = config.losses().balance();
  file["router_aux_loss_coef"] = config.losses().convention() == RunConfig::Convention::huggingface
                                     ? balance
                                     : balance_to_hugging_face(balance, config.model().layers(), config.model().top_k());
}

double balance_from_hugging_face(double coefficient, std::int64_t moe_layers, std::int64_t top_k) {
  return coefficient * static_cast<double>(top_k) / static_cast<double>(moe_layers);
}

double balance_to_hugging_face(double balance, std::int64_t moe_layers, std::int64_t top_k) {
  return balance * static_cast<double>(moe_layers) / static_cast<double>(top_k);
}

}  // namespace yard
