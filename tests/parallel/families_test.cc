#include "core/io/file.h"
#include "core/io/json.h"
#include "parallel/checkpoint/hugging_face.h"

#include <gmock/gmock.h>

#include <fstream>

#include "launch/config_rules.h"
#include "parallel/families/shared/family.h"
#include "tests/support/rig.h"

namespace yard {
namespace {

using namespace test;
using nlohmann::json;
using testing::HasSubstr;

HuggingFaceConfig read_back(const std::string& text) {
  const TemporaryFolder folder;
  std::ofstream(folder / "config.json") << text;
  return read_hugging_face_config(folder.path());
}

std::string refused(const json& file) {
  try {
    (void)read_back(file.dump());
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

json version_4() {
  return {{"model_type", "mixtral"},      {"architectures", {"MixtralForCausalLM"}},
          {"vocab_size", 32000},          {"hidden_size", 4096},
          {"intermediate_size", 14336},   {"num_hidden_layers", 32},
          {"num_attention_heads", 32},    {"num_key_value_heads", 8},
          {"hidden_act", "silu"},         {"max_position_embeddings", 32768},
          {"rms_norm_eps", 1e-5},         {"rope_theta", 1e6},
          {"sliding_window", nullptr},    {"num_local_experts", 8},
          {"num_experts_per_tok", 2},     {"router_aux_loss_coef", 0.02},
          {"tie_word_embeddings", false}, {"torch_dtype", "bfloat16"}};
}

TEST(Families, ReadVersions4And5) {
  const HuggingFaceConfig old = read_back(version_4().dump());
  EXPECT_EQ(old.family, "mixtral");
  const auto& model = old.config.model();
  EXPECT_EQ(model.vocabulary(), 32000);
  EXPECT_EQ(model.width(), 4096);
  EXPECT_EQ(model.hidden(), 14336);
  EXPECT_EQ(model.layers(), 32);
  EXPECT_EQ(model.heads(), 32);
  EXPECT_EQ(model.kv_heads(), 8);
  EXPECT_EQ(model.experts(), 8);
  EXPECT_EQ(model.top_k(), 2);
  EXPECT_EQ(model.rope_base(), 1e6);
  EXPECT_EQ(model.positions(), 32768);
  EXPECT_TRUE(model.router().normalize());
  EXPECT_EQ(old.config.model().window(), 0);
  EXPECT_EQ(old.config.run().precision(), RunConfig::Precision::bf16);
  EXPECT_EQ(old.config.losses().balance(), 0.02);
  EXPECT_EQ(old.config.losses().convention(), RunConfig::Convention::huggingface);

  json file = version_4();
  file.erase("rope_theta");
  file.erase("torch_dtype");
  file["rope_parameters"] = {{"rope_theta", 5e5}, {"rope_type", "default"}};
  file["dtype"] = "float32";
  file["sliding_window"] = 4096;
  const HuggingFaceConfig later = read_back(file.dump());
  EXPECT_EQ(later.config.model().rope_base(), 5e5);
  EXPECT_EQ(later.config.run().precision(), RunConfig::Precision::f32);
  EXPECT_EQ(later.config.model().window(), 4096);
}

TEST(Families, RefuseInOneSentence) {
  const auto with = [](const std::string& key, const json& value) {
    json file = version_4();
    file[key] = value;
    return refused(file);
  };
  EXPECT_EQ(refused(version_4()), "accepted");
  EXPECT_THAT(with("hidden_act", "gelu"), HasSubstr("hidden_act is \"gelu\""));
  EXPECT_THAT(with("rope_scaling", {{"type", "linear"}, {"factor", 2.0}}), HasSubstr("rope_scaling is"));
  EXPECT_THAT(with("rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}), HasSubstr("rope_parameters is"));
  EXPECT_THAT(with("attention_bias", true), HasSubstr("attention_bias is true"));
  EXPECT_THAT(with("quantization_config", {{"bits", 4}}), HasSubstr("quantization_config is set"));
  EXPECT_THAT(with("model_type", "qwen3_moe"), HasSubstr("those that can be read are llama, mixtral, olmoe and switchyard"));
  EXPECT_THAT(with("num_local_experts", "eight"), HasSubstr("num_local_experts is \"eight\", but must be a whole number"));
  EXPECT_THAT(with("hidden_size", nullptr), HasSubstr("has no hidden_size"));
  EXPECT_THAT(refused(json("text")), HasSubstr("is not a JSON object"));
  EXPECT_THAT(with("hidden_size", 18446744073709551612ULL), HasSubstr("hidden_size is 18446744073709551612, but must be"));
  EXPECT_THAT(with("eos_token_id", {1, 18446744073709551615ULL}), HasSubstr("eos_token_id is [1,18446744073709551615], but must"));
  for (const std::string& text : {std::string(5000, 'x'), std::string("a\nb\x7f")}) {
    for (const char* key : {"model_type", "hidden_act", "rope_scaling", "vocab_size", "eos_token_id", "bos_token_id", "pruned_heads"}) {
      const std::string sentence = with(key, text);
      EXPECT_LT(sentence.size(), 400U) << key;
      EXPECT_THAT(sentence, Not(HasSubstr("\n"))) << key;
    }
  }
}

/// parallel/families/README.md says what becomes of every key that the program knows, of those that transformers writes.
TEST(Families, EveryKeyIsInTheTable) {
  const std::string page(MappedFile(std::string(YARD_SOURCE) + "/parallel/families/README.md").text());
  const auto expect = [&](std::string_view key) { EXPECT_THAT(page, HasSubstr("`" + std::string(key) + "`")); };
  std::vector<ConfigKey> keys = common_keys();
  std::vector<std::string_view> others = common_rule_keys();
  for (const std::string_view key : keys_without_effect()) others.push_back(key);
  for (const Family& family : family_table()) {
    keys.insert(keys.end(), family.keys.begin(), family.keys.end());
    others.insert(others.end(), family.rule_keys.begin(), family.rule_keys.end());
  }
  for (const ConfigKey& key : keys) {
    expect(key.theirs);
    if (key.alternative != nullptr) expect(key.alternative);
  }
  for (const std::string_view key : others) expect(key);
}

/// to_dict() of the three configurations' classes in transformers 4.57 and 5.3: no key is unknown.
TEST(Families, KnowEveryKeyThatTransformersWrites) {
  const char* common =
      R"({"_name_or_path":"","add_cross_attention":false,"architectures":null,"attention_dropout":0.0,"bad_words_ids":null,
      "begin_suppress_tokens":null,"bos_token_id":1,"chunk_size_feed_forward":0,"cross_attention_hidden_size":null,"decoder_start_token_id":null,
      "diversity_penalty":0.0,"do_sample":false,"dtype":null,"early_stopping":false,"encoder_no_repeat_ngram_size":0,"eos_token_id":2,
      "exponential_decay_length_penalty":null,"finetuning_task":null,"forced_bos_token_id":null,"forced_eos_token_id":null,"head_dim":null,
      "hidden_act":"silu","hidden_size":64,"id2label":{"0":"LABEL_0","1":"LABEL_1"},"initializer_range":0.02,"intermediate_size":96,
      "is_decoder":false,"is_encoder_decoder":false,"label2id":{"LABEL_0":0,"LABEL_1":1},"length_penalty":1.0,"max_length":20,
      "max_position_embeddings":128,"min_length":0,"no_repeat_ngram_size":0,"num_attention_heads":4,"num_beam_groups":1,"num_beams":1,
      "num_hidden_layers":2,"num_key_value_heads":4,"num_return_sequences":1,"output_attentions":false,"output_hidden_states":false,
      "output_scores":false,"pad_token_id":null,"prefix":null,"problem_type":null,"pruned_heads":{},"remove_invalid_values":false,
      "repetition_penalty":1.0,"return_dict":true,"return_dict_in_generate":false,"rms_norm_eps":1e-05,"rope_scaling":null,"rope_theta":1e6,
      "sep_token_id":null,"suppress_tokens":null,"task_specific_params":null,"temperature":1.0,"tf_legacy_loss":false,
      "tie_encoder_decoder":false,"tie_word_embeddings":false,"tokenizer_class":null,"top_k":50,"top_p":1.0,"torch_dtype":null,
      "torchscript":false,"transformers_version":"4.57.1","typical_p":1.0,"use_bfloat16":false,"use_cache":true,"vocab_size":300,
      "rope_parameters":{"rope_theta":1e6,"rope_type":"default"}})";
  const std::vector<json> families = {{{"model_type", "mixtral"},
                                       {"num_experts_per_tok", 2},
                                       {"num_local_experts", 4},
                                       {"output_router_logits", false},
                                       {"router_aux_loss_coef", 0.001},
                                       {"router_jitter_noise", 0.0},
                                       {"sliding_window", nullptr}},
                                      {{"model_type", "llama"}, {"attention_bias", false}, {"mlp_bias", false}, {"pretraining_tp", 1}},
                                      {{"model_type", "olmoe"},
                                       {"attention_bias", false},
                                       {"clip_qkv", nullptr},
                                       {"norm_topk_prob", false},
                                       {"num_experts", 8},
                                       {"num_experts_per_tok", 2},
                                       {"output_router_logits", false},
                                       {"router_aux_loss_coef", 0.01}}};
  for (const json& family : families) {
    json file = parse_json(common);
    file.update(family);
    EXPECT_THAT(read_back(file.dump()).notices, testing::IsEmpty()) << family.at("model_type");
  }
}

json olmoe() {
  return {{"model_type", "olmoe"},   {"vocab_size", 50304},       {"hidden_size", 2048},         {"intermediate_size", 1024},
          {"num_hidden_layers", 16}, {"num_attention_heads", 16}, {"num_key_value_heads", 16},   {"max_position_embeddings", 4096},
          {"hidden_act", "silu"},    {"attention_bias", false},   {"clip_qkv", nullptr},         {"rope_scaling", nullptr},
          {"num_experts", 64},       {"num_experts_per_tok", 8},  {"router_aux_loss_coef", 0.01}};
}

TEST(Families, ReadOlmoe) {
  const HuggingFaceConfig read = read_back(olmoe().dump());
  const auto& model = read.config.model();
  EXPECT_EQ(model.qk_norm(), RunConfig::QkNorm::width);
  EXPECT_EQ(model.experts(), 64);
  EXPECT_EQ(model.top_k(), 8);
  EXPECT_EQ(model.hidden(), 1024);
  // What OLMoE's config.json leaves out.
  EXPECT_EQ(model.rope_base(), 1e4);
  EXPECT_EQ(model.norm_epsilon(), 1e-5);
  EXPECT_FALSE(model.router().normalize());
  EXPECT_EQ(read.config.losses().balance(), 0.01);
  const auto with = [](const std::string& key, const json& value) {
    json file = olmoe();
    file[key] = value;
    return file;
  };
  EXPECT_TRUE(read_back(with("norm_topk_prob", true).dump()).config.model().router().normalize());
  EXPECT_THAT(refused(with("clip_qkv", 8.0)), HasSubstr("clip_qkv is 8.0 (queries, keys and values are not clipped)"));
  EXPECT_THAT(refused(with("attention_bias", true)), HasSubstr("attention_bias is true"));
  EXPECT_THAT(refused(with("hidden_act", "gelu")), HasSubstr("hidden_act is \"gelu\""));
  EXPECT_THAT(refused(with("norm_topk_prob", 1)), HasSubstr("norm_topk_prob is 1, but must be true or false"));
  EXPECT_THAT(refused(with("num_experts", nullptr)), HasSubstr("has no num_experts"));
}

TEST(Families, OlmoesNamesAreItsOwn) {
  const NameTable names = names_of_family("olmoe");
  const std::string ours = "model.layers.12.block_sparse_moe.";
  const std::string theirs = "model.layers.12.mlp.";
  EXPECT_EQ(names.stored(ours + "gate.weight"), theirs + "gate.weight");
  EXPECT_EQ(names.stored(ours + "experts.7.w1.weight"), theirs + "experts.7.gate_proj.weight");
  EXPECT_EQ(names.stored(ours + "experts.7.w3.weight"), theirs + "experts.7.up_proj.weight");
  EXPECT_EQ(names.stored(ours + "experts.7.w2.weight"), theirs + "experts.7.down_proj.weight");
  EXPECT_EQ(names.stored("model.layers.12.self_attn.q_norm.weight"), "model.layers.12.self_attn.q_norm.weight");
  const auto up = names.places(ours + "experts.7.w3.weight");
  ASSERT_EQ(up.size(), 2U);
  EXPECT_EQ(up[1].tensor, theirs + "experts.gate_up_proj");
  EXPECT_EQ(up[1].item, 7);
  EXPECT_EQ(up[1].part, 1);
}

RunConfig model_of(const std::string& text) {
  RunConfig config = config_of("data { length: 16 global_batch: 4 } ");
  config.MergeFrom(config_of(text));
  return resolve(config, 1);
}

TEST(Families, WriteWhatTheModelExactlyIs) {
  const auto family = [](const std::string& text) {
    return parse_json(hugging_face_configs(model_of(text), DType::f32, 1).at("config.json")).at("model_type").get<std::string>();
  };
  EXPECT_EQ(family("model { experts: 4 }"), "mixtral");
  EXPECT_EQ(family("model { experts: 4 kv_heads: 2 tied_output: true head_width: 16 router { jitter: 0.1 capacity_factor: 1 } }"),
            "mixtral");
  EXPECT_EQ(family("model { experts: 1 }"), "llama");
  EXPECT_EQ(family("model { experts: 4 qk_norm: width router { normalize: false } }"), "olmoe");
  EXPECT_EQ(family("model { experts: 4 qk_norm: width kv_heads: 2 tied_output: true }"), "olmoe");
  for (const char* other :
       {"model { experts: 4 top_k: 1 }", "model { experts: 4 router { normalize: false } }", "model { experts: 4 first_dense_layers: 1 }",
        "model { experts: 4 moe_every: 2 }", "model { experts: 4 shared_experts: 1 }", "model { experts: 4 activation: gelu }",
        "model { experts: 4 gated: false }", "model { experts: 4 post_norms: true }", "model { experts: 4 attention_cap: 30 }",
        "model { experts: 4 attention_scale: 1 }", "model { experts: 4 embedding_scale: 2 }", "model { experts: 4 output_scale: 2 }",
        "model { experts: 4 dense_after: 8 }", "model { experts: 1 qk_norm: width }", "model { experts: 4 qk_norm: width head_width: 16 }",
        "model { experts: 4 qk_norm: width shared_experts: 1 }", "model { experts: 4 router { scale: 2 } }",
        "model { experts: 1 activation: relu }"}) {
    EXPECT_EQ(family(other), "switchyard") << other;
  }
}

TEST(Families, ReadWhatTheyWrite) {
  for (const char* text :
       {"model { experts: 4 kv_heads: 2 rope_base: 12345 norm_epsilon: 1e-6 } losses { balance: 0.03 }", "model { experts: 1 hidden: 96 }",
        "model { experts: 4 kv_heads: 2 qk_norm: width router { normalize: false } } losses { balance: 0.03 }",
        "model { experts: 4 top_k: 1 moe_every: 2 post_norms: true activation: gelu_tanh router { capacity_factor: 1.25 } }"}) {
    const RunConfig config = model_of(text);
    const HuggingFaceConfig again = read_back(hugging_face_configs(config, DType::bf16, 7).at("config.json"));
    RunConfig resolved = config_of("data { length: 16 global_batch: 4 }");
    resolved.mutable_model()->MergeFrom(again.config.model());
    if (again.family != "switchyard") {
      EXPECT_EQ(resolved.model().start_token(), 7);
      EXPECT_EQ(resolved.model().stop_tokens(), "7");
      resolved.mutable_model()->clear_start_token();
      resolved.mutable_model()->clear_stop_tokens();
    }
    resolved = resolve(resolved, 1);
    resolved.mutable_model()->set_dense_hidden(config.model().dense_hidden());
    EXPECT_EQ(resolved.model().ShortDebugString(), [&] {
      RunConfig::Model model = config.model();
      // Training's alone, and not in a Hugging Face file.
      if (again.family != "switchyard") model.mutable_router()->set_drop(resolved.model().router().drop());
      return model.ShortDebugString();
    }()) << text;
    EXPECT_EQ(again.config.run().precision(), RunConfig::Precision::bf16);
    if (again.family == "mixtral" || again.family == "olmoe") {
      EXPECT_NEAR(balance_from_hugging_face(again.config.losses().balance(), 4, config.model().top_k()), 0.03, 1e-15);
    }
  }
}

/// transformers pads with the first of them.
TEST(Families, StopTokensKeepTheirOrder) {
  const TemporaryFolder folder;
  std::ofstream(folder / "config.json") << version_4().dump();
  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": [3, 2]})";
  RunConfig config = read_hugging_face_config(folder.path()).config;
  config.mutable_data()->set_length(128);
  const auto texts = hugging_face_configs(resolve(config, 1), DType::f32, 2, kept_config(folder.path()));
  for (const char* name : {"config.json", "generation_config.json"})
    EXPECT_EQ(parse_json(texts.at(name)).at("eos_token_id"), json({3, 2})) << name;
}

TEST(Families, KnowTheFusedNames) {
  const std::string layer = "model.layers.12.";
  const NameTable mixtral = names_of_family("mixtral");
  const auto second = [&](const std::string& name) {
    const auto places = mixtral.places(layer + name);
    EXPECT_EQ(places.at(0).tensor, layer + name) << "the name that is written comes first";
    return places.at(1);
  };
  const StoredPart up = second("block_sparse_moe.experts.7.w3.weight");
  EXPECT_EQ(up.tensor, layer + "mlp.experts.gate_up_proj");
  EXPECT_EQ(up.item, 7);
  EXPECT_EQ(up.part, 1);
  EXPECT_EQ(up.parts, 2);
  EXPECT_EQ(second("block_sparse_moe.experts.7.w2.weight").tensor, layer + "mlp.experts.down_proj");
  EXPECT_EQ(second("block_sparse_moe.gate.weight").tensor, layer + "mlp.gate.weight");
  EXPECT_EQ(second("block_sparse_moe.gate.weight").item, -1);
  EXPECT_EQ(mixtral.places(layer + "self_attn.q_proj.weight").size(), 1U);
  EXPECT_EQ(names_of_family("llama").places(layer + "block_sparse_moe.gate.weight").size(), 1U);
  EXPECT_TRUE(may_be_left_over("lm_head.weight", true));
  EXPECT_FALSE(may_be_left_over("lm_head.weight", false));
}

/// One table, read and written: no two of a model's tensors have one name in a file.
TEST(Families, ATableGivesEveryTensorANameOfItsOwn) {
  const NameTable renamed(std::vector<NameTable::Row>{{"model.layers.{l}.block_sparse_moe.experts.{e}.w1.weight", "layers.{l}.{e}.gate"}});
  EXPECT_EQ(renamed.stored("model.layers.3.block_sparse_moe.experts.11.w1.weight"), "layers.3.11.gate");
  EXPECT_EQ(renamed.stored("model.layers.3.block_sparse_moe.experts.11.w2.weight"), "model.layers.3.block_sparse_moe.experts.11.w2.weight");
  EXPECT_EQ(renamed.stored("model.norm.weight"), "model.norm.weight");
}

}  // namespace
}  // namespace yard
