#include "parallel/checkpoint/hugging_face.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <fstream>
#include <vector>

#include "core/error.h"
#include "core/io/json.h"
#include "parallel/families/shared/family.h"

namespace yard {
namespace {

using nlohmann::json;
using Model = RunConfig::Model;

/// The model_type of a model that belongs to no family.
constexpr const char* kOwnType = "switchyard";

void read_precision(const ConfigFile& file, RunConfig& config) {
  json dtype = file.value("dtype");
  if (dtype.is_null()) dtype = file.value("torch_dtype");
  if (dtype.is_null()) return;  // auto
  config.mutable_run()->set_precision(dtype == "bfloat16" ? RunConfig::Precision::bf16 : RunConfig::Precision::f32);
}

void read_own(const ConfigFile& file, Model& model) {
  const auto status = google::protobuf::util::JsonStringToMessage(file.value(kOwnType).dump(), &model);
  check_input(status.ok(), "", file.path(), ": '", kOwnType, "' is no model of this version: ", std::string(status.message()));
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
  std::ifstream stream(path);
  check_input(stream.good(), "cannot read ", path, "; a Hugging Face directory has one");
  json content = parse_json(stream);
  check_input(content.is_object(), "", path, " is not a JSON object");
  ConfigFile file(std::move(content), path);
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
  check_input(family != nullptr, "", path, " has model_type ", type.dump(), "; those that can be read are ", known, " and ", kOwnType);
  family->reject(file);
  if (!file.value("quantization_config").is_null()) file.reject("quantization_config is set (weights must be bf16, f16 or f32)");
  file.check_supported();

  for (const ConfigKey& key : common_keys()) file.read(key, model);
  for (const ConfigKey& key : family->keys) file.read(key, model);
  family->read(file, result.config);
  if (const json start = file.value("bos_token_id"); start.is_number_integer()) {
    result.start = start;
    check_input(result.start >= 0 && result.start < model.vocabulary(), "", path, ": bos_token_id is ", start.dump(),
                ", beyond the vocabulary of ", model.vocabulary());
  }
  if (const json window = file.value("sliding_window"); window.is_number_integer()) result.window = window;
  return result;
}

std::string hugging_face_config(const RunConfig& config, DType weights, std::int32_t end_of_text) {
  const Model& model = config.model();
  const std::vector<Family> table = family_table();
  const Family* family = family_of(table, model);
  json file = json::object();
  file["architectures"] = json::array({family != nullptr ? family->architecture : "SwitchyardForCausalLM"});
  file["model_type"] = family != nullptr ? family->model_type : kOwnType;
  for (const ConfigKey& key : common_keys()) file[key.theirs] = value_for(key, model);
  file["hidden_act"] =
      model.activation() == RunConfig::Activation::gelu_tanh ? "gelu_pytorch_tanh" : RunConfig::Activation::Value_Name(model.activation());
  file["rope_theta"] = model.rope_base();
  file["rope_parameters"] = {{"rope_theta", model.rope_base()}, {"rope_type", "default"}};
  file["dtype"] = weights == DType::bf16 ? "bfloat16" : "float32";
  file["torch_dtype"] = file["dtype"];
  file["initializer_range"] = config.init().deviation();
  file["attention_dropout"] = 0.0;
  file["use_cache"] = true;
  if (end_of_text >= 0) {
    file["bos_token_id"] = end_of_text;
    file["eos_token_id"] = end_of_text;
  }
  if (family == nullptr) {
    file[kOwnType] = own_model(model);
  } else {
    for (const ConfigKey& key : family->keys) file[key.theirs] = value_for(key, model);
    family->write(config, file);
  }
  return file.dump(2) + "\n";
}

std::string hugging_face_generation_config(std::int32_t end_of_text) {
  json file = {{"do_sample", false}};
  if (end_of_text >= 0) {
    file["bos_token_id"] = end_of_text;
    file["eos_token_id"] = end_of_text;
  }
  return file.dump(2) + "\n";
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
