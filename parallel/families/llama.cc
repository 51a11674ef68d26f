#include "parallel/families/shared/family.h"

namespace yard {
namespace {

bool matches(const RunConfig::Model& model) { return is_plain(model) && model.experts() == 1 && model.window() == 0; }

void reject(ConfigFile& file) { reject_common(file); }

void read(const ConfigFile& file, RunConfig& config) {
  RunConfig::Model& model = *config.mutable_model();
  if (!model.has_positions()) model.set_positions(2048);
  model.set_experts(1);
  if (!model.has_norm_epsilon()) model.set_norm_epsilon(1e-6);
  model.set_rope_base(1e4);
  read_rotary_base(file, model);
}

void write(const RunConfig& /*config*/, nlohmann::json& file) {
  file["attention_bias"] = false;
  file["mlp_bias"] = false;
}

}  // namespace

/// Llama (Touvron et al. 2023, arXiv 2302.13971): dense. Our tensor names are Llama's.
Family llama_family() {
  Family family;
  family.model_type = "llama";
  family.architecture = "LlamaForCausalLM";
  family.matches = matches;
  family.reject = reject;
  family.read = read;
  family.write = write;
  return family;
}

}  // namespace yard
