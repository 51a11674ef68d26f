#include "parallel/families/shared/family.h"

namespace yard {
namespace {

bool matches(const RunConfig::Model& model) {
  return is_plain(model, RunConfig::QkNorm::width) && is_plain_mixture(model) && model.heads() * model.head_width() == model.width() &&
         model.window() == 0;
}

void reject(ConfigFile& file) {
  reject_common(file);
  file.reject_unless("clip_qkv", nullptr, "queries, keys and values are not clipped");
}

void read(const ConfigFile& file, RunConfig& config) {
  RunConfig::Model& model = *config.mutable_model();
  if (!model.has_positions()) model.set_positions(4096);
  model.set_qk_norm(RunConfig::QkNorm::width);
  if (!model.has_norm_epsilon()) model.set_norm_epsilon(1e-5);
  model.set_rope_base(1e4);
  read_rotary_base(file, model);
  if (!model.router().has_normalize()) model.mutable_router()->set_normalize(false);
  read_balance(file, config, 0.01);
}

void write(const RunConfig& config, nlohmann::json& file) {
  file["attention_bias"] = false;
  file["clip_qkv"] = nullptr;
  if (!file.contains("output_router_logits")) file["output_router_logits"] = false;
  write_balance(config, file);
}

}  // namespace

/// OLMoE (Muennighoff et al. 2024, arXiv 2409.02060): RMSNorm over all heads of queries and keys; router weights are not renormalised.
Family olmoe_family() {
  Family family;
  family.model_type = "olmoe";
  family.architecture = "OlmoeForCausalLM";
  family.names =
      NameTable({{"model.layers.{l}.block_sparse_moe.gate.weight", "model.layers.{l}.mlp.gate.weight"},
                 {"model.layers.{l}.block_sparse_moe.experts.{e}.w1.weight", "model.layers.{l}.mlp.experts.{e}.gate_proj.weight"},
                 {"model.layers.{l}.block_sparse_moe.experts.{e}.w3.weight", "model.layers.{l}.mlp.experts.{e}.up_proj.weight"},
                 {"model.layers.{l}.block_sparse_moe.experts.{e}.w2.weight", "model.layers.{l}.mlp.experts.{e}.down_proj.weight"}},
                // As transformers 5 holds them in memory, and writes them with save_original_format=False.
                {{"model.layers.{l}.block_sparse_moe.experts.{e}.w1.weight", "model.layers.{l}.mlp.experts.gate_up_proj", true, 0, 2},
                 {"model.layers.{l}.block_sparse_moe.experts.{e}.w3.weight", "model.layers.{l}.mlp.experts.gate_up_proj", true, 1, 2},
                 {"model.layers.{l}.block_sparse_moe.experts.{e}.w2.weight", "model.layers.{l}.mlp.experts.down_proj", true}});
  family.keys = {{"num_experts", "experts", "num_local_experts", true},
                 {"num_experts_per_tok", "top_k", nullptr, true},
                 {"norm_topk_prob", "router.normalize"}};
  family.rule_keys = {"clip_qkv", "router_aux_loss_coef"};
  family.matches = matches;
  family.reject = reject;
  family.read = read;
  family.write = write;
  return family;
}

}  // namespace yard
