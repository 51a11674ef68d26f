#include "launch/checkpoint_config.h"

#include <gmock/gmock.h>

#include <fstream>

#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "launch/config_reader.h"
#include "launch/config_rules.h"
#include "parallel/checkpoint/folder.h"
#include "tests/support/rig.h"

using namespace yard;

namespace {
namespace fs = std::filesystem;

nlohmann::json fixture_config(const std::string& fixture) {
  return parse_json(SafetensorsReader(std::string(YARD_FIXTURES) + "/" + fixture + ".safetensors").metadata().at("config"));
}

/// A Hugging Face directory whose weights are empty: these tests do not read them.
class Directory {
 public:
  explicit Directory(nlohmann::json config) : config_(std::move(config)) {
    write("config.json", config_.dump());
    write("model.safetensors", "");
  }
  void write(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name) << text; }
  std::string path() const { return folder_.path(); }
  const nlohmann::json& config() const { return config_; }

  /// The configuration of a run that starts from it, resolved.
  RunConfig started(const std::string& text = "") const {
    RunConfig given = test::config_of("data { length: 16 } init { checkpoint: '" + path() + "' } " + text);
    return resolve(with_initial_checkpoint(given), 1);
  }
  /// The small files of that run's checkpoints.
  std::map<std::string, std::string> written(const std::string& text = "") const {
    return checkpoint_texts(started(text), DType::f32, byte_tokenizer().get(), path());
  }

 private:
  test::TemporaryFolder folder_;
  nlohmann::json config_;
};

/// A run that starts from Mixtral's tiny fixture, whose router adds noise, with the router of `kind`, or the checkpoint's where it is
/// empty.
RunConfig started_from_mixtral(const std::string& kind) {
  nlohmann::json config = fixture_config("mixtral_tiny");
  config["router_jitter_noise"] = 0.25;
  const Directory directory(config);
  return directory.started("model { router { scale: 2.5 " + (kind.empty() ? "" : "kind: '" + kind + "'") + " } }");
}

TEST(CheckpointConfig, TheSameRouterKeepsTheSettingsOfTheCheckpoint) {
  for (const char* kind : {"", "softmax_top_k"}) {
    const RunConfig config = started_from_mixtral(kind);
    EXPECT_EQ(config.model().router().jitter(), 0.25);
    EXPECT_EQ(config.model().router().scale(), 2.5);
  }
}

TEST(CheckpointConfig, AnotherRouterTakesNoneOfThem) {
  const RunConfig config = started_from_mixtral("sigmoid_top_k");
  EXPECT_EQ(config.model().router().kind(), "sigmoid_top_k");
  EXPECT_EQ(config.model().router().jitter(), 0);
  EXPECT_EQ(config.model().router().scale(), 2.5);
  EXPECT_EQ(config.model().experts(), 4);
}

/// What transformers 4 and 5 write, with values that are not its defaults wherever the program accepts others.
nlohmann::json rich(const std::string& fixture) {
  nlohmann::json config = fixture_config(fixture);
  config.update({{"_name_or_path", "somebody/model"},
                 {"transformers_version", "4.44.2"},
                 {"initializer_range", 0.017},
                 {"pad_token_id", 0},
                 {"bos_token_id", 1},
                 {"eos_token_id", 2},
                 {"use_cache", false},
                 {"attention_dropout", 0.0},
                 {"output_router_logits", true},
                 {"pretraining_tp", 2},
                 {"rms_norm_eps", 3e-6},
                 {"id2label", {{"0", "LABEL_0"}}},
                 {"temperature", 0.6},
                 {"head_dim", config.at("hidden_size").get<int>() / config.at("num_attention_heads").get<int>()},
                 {"torch_dtype", "float32"},
                 {"rope_scaling", nullptr},
                 {"rope_theta", 12345.5}});
  config["rope_parameters"]["rope_theta"] = 12345.5;
  const std::string type = config.at("model_type");
  if (type != "llama") config["router_aux_loss_coef"] = 0.0123;
  if (type == "mixtral") config.update({{"sliding_window", 32}, {"router_jitter_noise", 0.125}});
  if (type == "llama") config.update({{"mlp_bias", false}, {"attention_bias", false}});
  if (type == "olmoe") config.update({{"clip_qkv", nullptr}, {"norm_topk_prob", true}});
  return config;
}

TEST(CheckpointConfig, ADirectorysKeysComeBack) {
  for (const char* fixture : {"mixtral_tiny", "llama_tiny", "olmoe_tiny"}) {
    for (const char* convention : {"megatron", "huggingface"}) {
      const Directory directory(rich(fixture));
      const std::string generation = R"({"bos_token_id":1,"eos_token_id":[2,30],"temperature":0.6,"top_p":0.9,"do_sample":true})";
      directory.write("generation_config.json", generation);
      const auto texts = directory.written("losses { convention: " + std::string(convention) + " }");
      const nlohmann::json written = parse_json(texts.at("config.json"));
      for (const auto& [key, value] : directory.config().items())
        EXPECT_EQ(written.value(key, nlohmann::json()), value) << fixture << ": " << key;
      EXPECT_EQ(parse_json(texts.at("generation_config.json")), parse_json(generation));
      // And once more, from what was written.
      const Directory again(written);
      again.write("generation_config.json", texts.at("generation_config.json"));
      EXPECT_EQ(again.written("losses { convention: " + std::string(convention) + " }"), texts) << fixture;
    }
  }
}

TEST(CheckpointConfig, ACheckpointOfARunPassesTheCoefficientOn) {
  const Directory directory(rich("mixtral_tiny"));
  const RunConfig first = directory.started("losses { convention: huggingface }");
  EXPECT_EQ(first.losses().balance(), 0.0123);
  const Directory own(directory.config());
  CheckpointState state;
  state.set_config(to_text(first));
  state.mutable_mesh()->set_expert(1);
  own.write("state.json", to_json(state));
  EXPECT_EQ(own.started().losses().balance(), 0.0123);
  EXPECT_EQ(own.started().losses().convention(), RunConfig::Convention::huggingface);
  EXPECT_DOUBLE_EQ(own.started("losses { convention: megatron }").losses().balance(), 0.0123 * 2 / 2);
  EXPECT_EQ(own.started("losses { balance: 0.5 }").losses().balance(), 0.5);
}

TEST(CheckpointConfig, ExplicitSettingsWin) {
  const Directory directory(rich("mixtral_tiny"));
  const auto texts = directory.written("model { start_token: 5 stop_tokens: '7, 6' norm_epsilon: 1e-5 } losses { balance: 0 }");
  const nlohmann::json written = parse_json(texts.at("config.json"));
  EXPECT_EQ(written.at("bos_token_id"), 5);
  EXPECT_EQ(written.at("eos_token_id"), nlohmann::json({6, 7}));
  EXPECT_EQ(written.at("rms_norm_eps"), 1e-5);
  EXPECT_EQ(written.at("router_aux_loss_coef"), 0);
  const nlohmann::json generation = parse_json(texts.at("generation_config.json"));
  EXPECT_EQ(generation.at("bos_token_id"), 5);
  EXPECT_EQ(generation.at("eos_token_id"), nlohmann::json({6, 7}));
}

TEST(CheckpointConfig, StopsWhereTransformersDoes) {
  nlohmann::json config = rich("mixtral_tiny");
  config["eos_token_id"] = {2, 30};
  const Directory directory(config);
  EXPECT_EQ(directory.started().model().stop_tokens(), "2, 30");
  directory.write("generation_config.json", R"({"eos_token_id":[3]})");
  EXPECT_EQ(directory.started().model().stop_tokens(), "3") << "generation_config.json comes first";
  directory.write("generation_config.json", R"({"eos_token_id":null})");
  EXPECT_EQ(directory.started().model().stop_tokens(), "2, 30");
  directory.write("generation_config.json", R"({"eos_token_id":96})");
  EXPECT_THROW((void)directory.started(), InputError);
  directory.write("generation_config.json", R"({"eos_token_id":"</s>"})");
  EXPECT_THROW((void)directory.started(), InputError);
  directory.write("generation_config.json", "[]");
  EXPECT_THROW((void)directory.started(), InputError);
}

TEST(CheckpointConfig, NoStartTokenIsPutWhereTheTokenizerPutsNone) {
  const Directory directory(rich("mixtral_tiny"));
  EXPECT_EQ(directory.started().model().start_token(), 1);
  directory.write("tokenizer_config.json", R"({"add_bos_token":false})");
  EXPECT_EQ(directory.started().model().start_token(), -1);
  EXPECT_EQ(parse_json(directory.written().at("config.json")).at("bos_token_id"), 1);
}

TEST(CheckpointConfig, ShorterAttentionWindowsAreRejected) {
  nlohmann::json config = rich("mixtral_tiny");
  config["sliding_window"] = 8;
  try {
    (void)Directory(config).started();
    ADD_FAILURE() << "accepted";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("model.window is 8 (sliding_window), less than data.length 16"));
  }
}

TEST(CheckpointConfig, MissingKeysHaveTransformersDefaults) {
  const auto without = [](const char* fixture, const std::vector<const char*>& keys) {
    nlohmann::json config = fixture_config(fixture);
    for (const char* key : keys) config.erase(key);
    return Directory(config).started();
  };
  EXPECT_EQ(without("llama_tiny", {"max_position_embeddings"}).model().positions(), 2048);
  EXPECT_EQ(without("mixtral_tiny", {"max_position_embeddings"}).model().positions(), 131072);
  EXPECT_EQ(without("olmoe_tiny", {"max_position_embeddings"}).model().positions(), 4096);
  EXPECT_EQ(without("llama_tiny", {"rms_norm_eps"}).model().norm_epsilon(), 1e-6);
  EXPECT_EQ(without("mixtral_tiny", {"rms_norm_eps"}).model().norm_epsilon(), 1e-5);
  EXPECT_EQ(without("mixtral_tiny", {"rope_theta", "rope_parameters"}).model().rope_base(), 1e6);
  EXPECT_EQ(without("llama_tiny", {"rope_theta", "rope_parameters"}).model().rope_base(), 1e4);
  EXPECT_DOUBLE_EQ(without("mixtral_tiny", {"router_aux_loss_coef"}).losses().balance(), 0.001 * 2 / 2);
  nlohmann::json old = fixture_config("llama_tiny");
  old.erase("max_position_embeddings");
  old["max_sequence_length"] = 48;
  EXPECT_EQ(Directory(old).started().model().positions(), 48);
}

TEST(CheckpointConfig, OneExpertPerTokenIsWhatTheDirectorySays) {
  nlohmann::json config = fixture_config("mixtral_tiny");
  config["num_experts_per_tok"] = 1;
  const RunConfig read = Directory(config).started();
  EXPECT_EQ(read.model().top_k(), 1);
  EXPECT_TRUE(read.model().router().normalize());
}

TEST(CheckpointConfig, WhatIsNotSupportedIsNamed) {
  const std::vector<std::pair<std::string, nlohmann::json>> cases = {
      {"attention_dropout", 0.1},
      {"attention_bias", true},
      {"is_encoder_decoder", true},
      {"add_cross_attention", true},
      {"partial_rotary_factor", 0.5},
      {"pruned_heads", {{"0", {1}}}},
      {"layer_types", {"full_attention", "sliding_attention"}},
      {"hidden_act", "gelu"},
      {"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}},
      {"quantization_config", {{"bits", 4}}},
      {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e4}, {"partial_rotary_factor", 0.25}}},
      {"router_aux_loss_coef", "x"},
      {"sliding_window", "all"},
      {"bos_token_id", 96},
      {"eos_token_id", 96},
      {"bos_token_id", -3},
      {"eos_token_id", {2, "x"}}};
  for (const auto& [key, value] : cases) {
    nlohmann::json config = fixture_config("mixtral_tiny");
    config[key] = value;
    try {
      (void)Directory(config).started();
      ADD_FAILURE() << key << " was accepted";
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(key));
    }
  }
}

/// OLMoE's directories have a tokenizer.json alone, which is not read: the default tokenizer does not take its place.
TEST(CheckpointConfig, ATokenizerThatCannotBeReadIsKept) {
  const Directory directory(rich("olmoe_tiny"));
  directory.write("tokenizer.json", "{}");
  directory.write("special_tokens_map.json", "{\"eos_token\": \"|||IP_ADDRESS|||\"}");
  const RunConfig config = directory.started();
  EXPECT_EQ(config.data().tokenizer(), "none");
  const auto texts = checkpoint_texts(config, DType::f32, nullptr, directory.path());
  EXPECT_EQ(texts.at("tokenizer.json"), "{}");
  EXPECT_EQ(texts.at("special_tokens_map.json"), "{\"eos_token\": \"|||IP_ADDRESS|||\"}");
  EXPECT_FALSE(texts.contains("tokenizer_config.json"));
  EXPECT_EQ(parse_json(texts.at("config.json")).at("eos_token_id"), 2);
}

TEST(CheckpointConfig, UnknownKeysAreReportedAndKept) {
  nlohmann::json config = rich("llama_tiny");
  config["new_feature"] = {{"a", 1}};
  config["another"] = true;
  const Directory directory(config);
  EXPECT_EQ(read_hugging_face_config(directory.path()).notices,
            std::vector<std::string>{directory.path() + "/config.json has keys that have no effect here: another, new_feature"});
  EXPECT_EQ(parse_json(directory.written().at("config.json")).at("new_feature"), config.at("new_feature"));
  const Directory known(rich("mixtral_tiny"));
  known.write("generation_config.json", R"({"temperature":0.6,"repetition_penalty":1.0,"num_beams":1,"suppress_tokens":null})");
  EXPECT_TRUE(read_hugging_face_config(known.path()).notices.empty());
  known.write("generation_config.json", R"({"temperature":0.6,"repetition_penalty":1.1,"suppress_tokens":[3]})");
  EXPECT_EQ(read_hugging_face_config(known.path()).notices,
            std::vector<std::string>{known.path() +
                                     "/generation_config.json sets what generate does not apply: repetition_penalty, suppress_tokens"});
}

}  // namespace
