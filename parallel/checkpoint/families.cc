#include "parallel/checkpoint/families.h"

#include <google/protobuf/util/json_util.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <vector>

#include "core/error.h"
#include "core/io/json.h"

namespace yard {
namespace {

using nlohmann::json;
using Model = RunConfig::Model;

/// A key of config.json and the field of `model` that it is.
struct Key {
  const char* theirs;
  const char* ours;
  const char* otherwise = nullptr;  // another spelling
};

/// A name that files may use instead of ours; {l} and {e} stand for the layer's and the expert's number.
struct Alias {
  const char* ours;
  const char* theirs;
  bool by_expert = false;
  Index part = 0, parts = 1;
};

struct Family {
  const char* model_type;
  const char* architecture;
  bool (*is)(const Model&);  // whether a resolved model is exactly of this family
  std::vector<Key> keys;     // beside those that all have
  std::vector<Alias> aliases;
};

/// Attention and feed-forwards as Llama has them.
bool is_plain(const Model& model) {
  const double usual = 1 / std::sqrt(static_cast<double>(model.head_width()));
  return model.gated() && model.activation() == RunConfig::Activation::silu && model.attention_cap() == 0 && !model.post_norms() &&
         std::abs(model.attention_scale() - usual) <= 1e-12 && model.embedding_scale() == 1 && model.output_scale() == 1;
}

bool is_llama(const Model& model) { return is_plain(model) && model.experts() == 1; }

bool is_mixtral(const Model& model) {
  const auto& router = model.router();
  return is_plain(model) && model.experts() > 1 && model.moe_every() == 1 && model.first_dense_layers() == 0 &&
         model.shared_hidden() == 0 && model.dense_after() == 0 && router.kind() == "softmax_top_k" && router.normalize() &&
         router.scale() == 1 && !(router.evaluation_capacity() > 0);
}

// To add a family: its line here. Ours are the names that Mixtral's and Llama's files have, so that those need no other ones.
const std::vector<Family>& families() {
  static const std::vector<Family> kFamilies = {
      {"mixtral",
       "MixtralForCausalLM",
       is_mixtral,
       {{"num_local_experts", "experts", "num_experts"}, {"num_experts_per_tok", "top_k"}},
       // As transformers 5 holds them in memory, and writes them with save_original_format=False.
       {{"model.layers.{l}.block_sparse_moe.gate.weight", "model.layers.{l}.mlp.gate.weight"},
        {"model.layers.{l}.block_sparse_moe.experts.{e}.w1.weight", "model.layers.{l}.mlp.experts.gate_up_proj", true, 0, 2},
        {"model.layers.{l}.block_sparse_moe.experts.{e}.w3.weight", "model.layers.{l}.mlp.experts.gate_up_proj", true, 1, 2},
        {"model.layers.{l}.block_sparse_moe.experts.{e}.w2.weight", "model.layers.{l}.mlp.experts.down_proj", true}}},
      {"llama", "LlamaForCausalLM", is_llama, {}, {}},
  };
  return kFamilies;
}

constexpr std::array<Key, 10> kCommonKeys = {{{"vocab_size", "vocabulary"},
                                              {"hidden_size", "width"},
                                              {"intermediate_size", "hidden"},
                                              {"num_hidden_layers", "layers"},
                                              {"num_attention_heads", "heads"},
                                              {"num_key_value_heads", "kv_heads"},
                                              {"head_dim", "head_width"},
                                              {"max_position_embeddings", "positions"},
                                              {"rms_norm_eps", "norm_epsilon"},
                                              {"tie_word_embeddings", "tied_output"}}};

const Family* find_family(const std::string& model_type) {
  for (const Family& family : families()) {
    if (family.model_type == model_type) return &family;
  }
  return nullptr;
}

const google::protobuf::FieldDescriptor* field_of(const char* name) {
  const auto* field = Model::descriptor()->FindFieldByName(name);
  check(field != nullptr, "config.proto has no field model.", name);
  return field;
}

using Kind = google::protobuf::FieldDescriptor;

/// Throws InputError when the value is of another type.
void set_field(Model& model, const Key& key, const json& value, const std::string& path) {
  const auto* field = field_of(key.ours);
  const auto& reflection = *Model::GetReflection();
  if (field->cpp_type() == Kind::CPPTYPE_INT64) {
    check_input(value.is_number_integer(), "", path, ": ", key.theirs, " is ", value.dump(), ", but must be a whole number");
    reflection.SetInt64(&model, field, value.get<Index>());
  } else if (field->cpp_type() == Kind::CPPTYPE_BOOL) {
    check_input(value.is_boolean(), "", path, ": ", key.theirs, " is ", value.dump(), ", but must be true or false");
    reflection.SetBool(&model, field, value.get<bool>());
  } else {
    check_input(value.is_number(), "", path, ": ", key.theirs, " is ", value.dump(), ", but must be a number");
    reflection.SetDouble(&model, field, value.get<double>());
  }
}

json field_value(const Model& model, const char* name) {
  const auto* field = field_of(name);
  const auto& reflection = *Model::GetReflection();
  if (field->cpp_type() == Kind::CPPTYPE_INT64) return reflection.GetInt64(model, field);
  if (field->cpp_type() == Kind::CPPTYPE_BOOL) return reflection.GetBool(model, field);
  return reflection.GetDouble(model, field);
}

/// The value of a key, or null where it is missing or null.
json value_of(const json& file, const char* key) { return file.contains(key) ? file[key] : json(); }

/// All that the file asks for and we do not do, in words.
std::vector<std::string> unsupported(const json& file) {
  std::vector<std::string> problems;
  const json activation = value_of(file, "hidden_act");
  if (!activation.is_null() && activation != "silu" && activation != "swish")
    problems.push_back("hidden_act is " + activation.dump() + " (only \"silu\" works)");
  for (const char* scaling : {"rope_scaling", "rope_parameters"}) {
    const json value = value_of(file, scaling);
    if (value.is_null()) continue;
    json type = value.is_object() ? value_of(value, "rope_type") : value;
    if (type.is_null() && value.is_object()) type = value_of(value, "type");
    if (type.is_null() && value.is_object() && scaling == std::string("rope_parameters")) continue;
    if (type != "default") problems.push_back(std::string(scaling) + " is " + value.dump() + " (rotary positions are not scaled)");
  }
  for (const char* bias : {"attention_bias", "mlp_bias"}) {
    if (value_of(file, bias) == true) problems.push_back(std::string(bias) + " is true (there are no biases)");
  }
  const json quantised = value_of(file, "quantization_config");
  if (!quantised.is_null()) problems.emplace_back("quantization_config is set (weights must be bf16, f16 or f32)");
  return problems;
}

void read_rotary_base(const json& file, Model& model, const std::string& path) {
  json base = value_of(file, "rope_theta");
  const json parameters = value_of(file, "rope_parameters");
  if (parameters.is_object() && parameters.contains("rope_theta")) base = parameters["rope_theta"];
  if (!base.is_null()) set_field(model, {"rope_theta", "rope_base"}, base, path);
}

void read_precision(const json& file, RunConfig& config) {
  json dtype = value_of(file, "dtype");
  if (dtype.is_null()) dtype = value_of(file, "torch_dtype");
  if (dtype.is_null()) return;  // auto
  config.mutable_run()->set_precision(dtype == "bfloat16" ? RunConfig::Precision::bf16 : RunConfig::Precision::f32);
}

/// "experts.12." becomes "experts.{e}." and the number is told; the same for "layers.".
Index take_number(std::string& name, const std::string& before, const std::string& sign) {
  const std::size_t at = name.find(before);
  if (at == std::string::npos) return -1;
  const std::size_t begin = at + before.size();
  const std::size_t end = name.find_first_not_of("0123456789", begin);
  if (end == begin || end == std::string::npos || end - begin > 9) return -1;
  const Index number = std::stoll(name.substr(begin, end - begin));
  name.replace(begin, end - begin, sign);
  return number;
}

}  // namespace

HuggingFaceConfig read_hugging_face_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  std::ifstream stream(path);
  check_input(stream.good(), "cannot read ", path, "; a Hugging Face directory has one");
  const json file = parse_json(stream);
  check_input(file.is_object(), "", path, " is not a JSON object");
  HuggingFaceConfig result;
  const json type = value_of(file, "model_type");
  result.family = type.is_string() ? type.get<std::string>() : "";
  Model& model = *result.config.mutable_model();
  read_precision(file, result.config);
  if (result.family == "switchyard") {
    const json own = value_of(file, "switchyard");
    const auto status = google::protobuf::util::JsonStringToMessage(own.dump(), &model);
    check_input(status.ok(), "", path, ": 'switchyard' is no model of this version: ", std::string(status.message()));
    return result;
  }
  const Family* family = find_family(result.family);
  std::string known;
  for (const Family& each : families()) known += std::string(known.empty() ? "" : ", ") + each.model_type;
  check_input(family != nullptr, "", path, " has model_type ", type.dump(), "; those that can be read are ", known, " and switchyard");
  std::string words;
  for (const std::string& problem : unsupported(file)) words += (words.empty() ? "" : "; ") + problem;
  check_input(words.empty(), "", path, " asks for what is not supported: ", words);

  const auto read = [&](const Key& key, bool needed) {
    json value = value_of(file, key.theirs);
    if (value.is_null() && key.otherwise != nullptr) value = value_of(file, key.otherwise);
    check_input(!value.is_null() || !needed, "", path, " has no ", key.theirs);
    if (!value.is_null()) set_field(model, key, value, path);
  };
  for (const Key& key : kCommonKeys) {
    const std::string name = key.theirs;
    read(key, name == "vocab_size" || name == "hidden_size" || name == "intermediate_size" || name == "num_hidden_layers" ||
                  name == "num_attention_heads");
  }
  model.set_experts(1);
  for (const Key& key : family->keys) read(key, true);
  // What transformers takes where a file says nothing.
  if (!model.has_norm_epsilon()) model.set_norm_epsilon(model.experts() > 1 ? 1e-5 : 1e-6);
  if (!model.has_rope_base()) model.set_rope_base(model.experts() > 1 ? 1e6 : 1e4);
  read_rotary_base(file, model, path);
  if (model.experts() > 1) {
    model.mutable_router()->set_normalize(true);
    if (const json jitter = value_of(file, "router_jitter_noise"); jitter.is_number()) model.mutable_router()->set_jitter(jitter);
    if (const json coefficient = value_of(file, "router_aux_loss_coef"); coefficient.is_number())
      result.config.mutable_losses()->set_balance(balance_from_hugging_face(coefficient, model.layers(), model.top_k()));
  }
  if (const json start = value_of(file, "bos_token_id"); start.is_number_integer()) {
    result.start = start;
    check_input(result.start >= 0 && result.start < model.vocabulary(), "", path, ": bos_token_id is ", start.dump(),
                ", beyond the vocabulary of ", model.vocabulary());
  }
  if (const json window = value_of(file, "sliding_window"); window.is_number_integer()) result.window = window;
  return result;
}

std::string hugging_face_config(const RunConfig& config, DType weights, std::int32_t end_of_text) {
  const Model& model = config.model();
  const Family* family = nullptr;
  for (const Family& each : families()) {
    if (each.is(model)) family = &each;
  }
  json file = json::object();
  file["architectures"] = json::array({family != nullptr ? family->architecture : "SwitchyardForCausalLM"});
  file["model_type"] = family != nullptr ? family->model_type : "switchyard";
  for (const Key& key : kCommonKeys) file[key.theirs] = field_value(model, key.ours);
  file["hidden_act"] =
      model.activation() == RunConfig::Activation::gelu_tanh ? "gelu_pytorch_tanh" : RunConfig::Activation::Value_Name(model.activation());
  file["rope_theta"] = model.rope_base();
  file["rope_parameters"] = {{"rope_theta", model.rope_base()}, {"rope_type", "default"}};
  file["dtype"] = weights == DType::bf16 ? "bfloat16" : "float32";
  file["torch_dtype"] = file["dtype"];
  file["initializer_range"] = config.init().deviation();
  file["attention_dropout"] = 0.0;
  file["use_cache"] = true;
  file["bos_token_id"] = end_of_text;
  file["eos_token_id"] = end_of_text;
  if (model.experts() > 1) {
    file["num_local_experts"] = model.experts();
    file["num_experts_per_tok"] = model.top_k();
    file["sliding_window"] = nullptr;
    file["output_router_logits"] = false;
    file["router_jitter_noise"] = model.router().jitter();
    Index moe_layers = 0;
    for (Index layer = model.first_dense_layers(); layer < model.layers(); ++layer)
      moe_layers += (layer + 1) % model.moe_every() == 0 ? 1 : 0;
    file["router_aux_loss_coef"] = config.losses().convention() == RunConfig::Convention::huggingface
                                       ? config.losses().balance()
                                       : balance_to_hugging_face(config.losses().balance(), moe_layers, model.top_k());
  } else {
    file["attention_bias"] = false;
    file["mlp_bias"] = false;
  }
  if (family == nullptr) {
    google::protobuf::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    std::string text;
    const auto status = google::protobuf::util::MessageToJsonString(model, &text, options);
    check(status.ok(), "cannot write the model as JSON: ", status.ToString());
    file["switchyard"] = parse_json(text);
  }
  return file.dump(2) + "\n";
}

std::string hugging_face_generation_config(std::int32_t end_of_text) {
  return json{{"bos_token_id", end_of_text}, {"eos_token_id", end_of_text}, {"do_sample", false}}.dump(2) + "\n";
}

double balance_from_hugging_face(double coefficient, Index moe_layers, Index top_k) {
  return coefficient * static_cast<double>(top_k) / static_cast<double>(moe_layers);
}

double balance_to_hugging_face(double balance, Index moe_layers, Index top_k) {
  return balance * static_cast<double>(moe_layers) / static_cast<double>(top_k);
}

StoredPart other_name(const std::string& family, const std::string& name) {
  const Family* known = find_family(family);
  if (known == nullptr) return {};
  std::string pattern = name;
  const Index layer = take_number(pattern, "layers.", "{l}");
  const Index expert = take_number(pattern, "experts.", "{e}");
  for (const Alias& alias : known->aliases) {
    if (alias.ours != pattern) continue;
    StoredPart stored;
    stored.tensor = alias.theirs;
    stored.tensor.replace(stored.tensor.find("{l}"), 3, std::to_string(layer));
    stored.item = alias.by_expert ? expert : -1;
    stored.part = alias.part;
    stored.parts = alias.parts;
    return stored;
  }
  return {};
}

bool may_be_left_over(const std::string& tensor, bool tied_output) {
  return tensor.ends_with(".rotary_emb.inv_freq") || (tied_output && tensor == "lm_head.weight");
}

}  // namespace yard
