#include "parallel/families/shared/family.h"

namespace yard {
namespace {

bool matches(const RunConfig::Model& model) { return is_plain(model) && is_plain_mixture(model) && model.router().normalize(); }

void reject(ConfigFile& file) { reject_common(file); }

void read(const ConfigFile& file, RunConfig& config) {
  RunConfig::Model& model = *config.mutable_model();
  if (!model.has_positions()) model.set_positions(131072);
  if (!model.has_norm_epsilon()) model.set_norm_epsilon(1e-5);
  model.set_rope_base(1e6);
  read_rotary_base(file, model);
  model.mutable_router()->set_normalize(true);
  file.read({"sliding_window", "window"}, model);
  read_balance(file, config, 0.001);
}

void write(const RunConfig& config, nlohmann::json& file) {
  file["sliding_window"] = config.model().window() > 0 ? nlohmann::json(config.model().window()) : nlohmann::json();
  if (!file.contains("output_router_logits")) file["output_router_logits"] = false;
  write_balance(config, file);
}

}  // namespace

/// Mixtral (Jiang et al. 2024, arXiv 2401.04088). Our tensor names are Mixtral's.
Family mixtral_family() {
  Family family;
  family.model_type = "mixtral";
  family.architecture = "MixtralForCausalLM";
  family.names =
      NameTable({},
                // As transformers 5 holds them in memory, and writes them with save_original_format=False.
                {{"model.layers.{l}.block_sparse_moe.gate.weight", "model.layers.{l}.mlp.gate.weight"},
                 {"model.layers.{l}.block_sparse_moe.experts.{e}.w1.weight", "model.layers.{l}.mlp.experts.gate_up_proj", true, 0, 2},
                 {"model.layers.{l}.block_sparse_moe.experts.{e}.w3.weight", "model.layers.{l}.mlp.experts.gate_up_proj", true, 1, 2},
                 {"model.layers.{l}.block_sparse_moe.experts.{e}.w2.weight", "model.layers.{l}.mlp.experts.down_proj", true}});
  family.keys = {{"num_local_experts", "experts", "num_experts", true},
                 {"num_experts_per_tok", "top_k", nullptr, true},
                 {"router_jitter_noise", "router.jitter"}};
  family.rule_keys = {"sliding_window", "router_aux_loss_coef"};
  family.matches = matches;
  family.reject = reject;
  family.read = read;
  family.write = write;
  return family;
}

}  // namespace yard
