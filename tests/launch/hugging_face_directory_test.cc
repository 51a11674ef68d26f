#include <gmock/gmock.h>

#include <array>
#include <set>

#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "tests/launch/program.h"

namespace yard {
namespace {

using namespace test;
using nlohmann::json;
using testing::HasSubstr;
namespace fs = std::filesystem;

/// A directory as the Hub has them, of a fixture's model (tests/fixtures/README.md), whose logits transformers computed.
class Directory {
 public:
  explicit Directory(const std::string& fixture) : fixture_(std::string(YARD_FIXTURES) + "/" + fixture + ".safetensors") {
    config = parse_json(fixture_.metadata().at("config"));
    config["hidden_act"] = "silu";
    config["torch_dtype"] = "float32";
    for (const auto& entry : fixture_.entries()) {
      if (entry.name.starts_with("model.") || entry.name == "lm_head.weight")
        tensors[entry.name] = fixture_.read(cpu(), entry.name, DType::f32);
    }
  }
  json config;
  std::map<std::string, Tensor> tensors;

  /// Per-expert tensors become the ones that transformers 5 holds in memory.
  void fuse() {
    const bool olmoe = config.at("model_type") == "olmoe";
    const Index experts = config.at(olmoe ? "num_experts" : "num_local_experts");
    const std::array<const char*, 3> matrices =
        olmoe ? std::array{"gate_proj.weight", "up_proj.weight", "down_proj.weight"} : std::array{"w1.weight", "w3.weight", "w2.weight"};
    for (Index layer = 0; layer < config.at("num_hidden_layers"); ++layer) {
      const std::string theirs = "model.layers." + std::to_string(layer) + ".mlp.";
      const std::string single = "model.layers." + std::to_string(layer) + (olmoe ? ".mlp." : ".block_sparse_moe.");
      const auto take = [&](const std::string& name) {
        const Tensor tensor = tensors.at(name);
        tensors.erase(name);
        return tensor;
      };
      tensors[theirs + "gate.weight"] = take(single + "gate.weight");
      std::vector<float> gate_up;
      std::vector<float> down;
      Shape up_shape;
      Shape down_shape;
      for (Index e = 0; e < experts; ++e) {
        const std::string expert = single + "experts." + std::to_string(e) + ".";
        for (const char* part : {matrices[0], matrices[1]}) {
          const Tensor tensor = take(expert + part);
          up_shape = tensor.shape();
          gate_up.insert(gate_up.end(), tensor.data<float>(), tensor.data<float>() + tensor.elements());
        }
        const Tensor tensor = take(expert + matrices[2]);
        down_shape = tensor.shape();
        down.insert(down.end(), tensor.data<float>(), tensor.data<float>() + tensor.elements());
      }
      tensors[theirs + "experts.gate_up_proj"] = Tensor::of<float>(cpu(), {experts, 2 * up_shape[0], up_shape[1]}, gate_up);
      tensors[theirs + "experts.down_proj"] = Tensor::of<float>(cpu(), {experts, down_shape[0], down_shape[1]}, down);
    }
  }

  /// Writes it in one file, or in several with an index.
  void write(const std::string& folder, int files = 1) const {
    fs::create_directories(folder);
    std::ofstream(folder + "/config.json") << config.dump(1);
    json weight_map = json::object();
    for (int file = 0; file < files; ++file) {
      const std::string name =
          files == 1 ? "model.safetensors" : "model-0000" + std::to_string(file + 1) + "-of-0000" + std::to_string(files) + ".safetensors";
      std::vector<SafetensorsEntry> entries;
      int number = 0;
      for (const auto& [tensor, values] : tensors) {
        if (number++ % files != file) continue;
        SafetensorsEntry entry;
        entry.name = tensor;
        entry.dtype = safetensors_dtype(values.dtype());
        for (int axis = 0; axis < values.shape().rank(); ++axis) entry.shape.push_back(values.shape()[axis]);
        entries.push_back(entry);
        weight_map[tensor] = name;
      }
      SafetensorsWriter writer(folder + "/" + name, entries);
      for (const auto& entry : entries) writer.write(tensors.at(entry.name));
      writer.finish();
    }
    if (files > 1) std::ofstream(folder + "/model.safetensors.index.json") << json{{"weight_map", weight_map}}.dump(1);
  }

  void write_ids(const std::string& path) const {
    const Tensor ids = fixture_.read(cpu(), "input_ids", DType::i64);
    SafetensorsEntry entry;
    entry.name = "input_ids";
    entry.dtype = "I64";
    entry.shape = {ids.shape()[0], ids.shape()[1]};
    SafetensorsWriter writer(path, {entry});
    writer.write(ids);
    writer.finish();
  }
  std::vector<double> logits() const { return to_f64(fixture_.read(cpu(), "logits", DType::f32)); }

 private:
  SafetensorsReader fixture_;
};

void expect_their_logits(const Program& program, const Directory& directory, int ranks, double bound = 1e-5) {
  directory.write_ids(program / "ids");
  fs::remove(program / "logits");
  const auto result = program.run("eval --checkpoint d --ids ids --logits logits", ranks);
  ASSERT_EQ(result.code, 0) << result.err;
  expect_close(to_f64(SafetensorsReader(program / "logits").read(cpu(), "logits", DType::f32)), directory.logits(), bound, "logits");
}

TEST(HuggingFaceDirectory, GivesTheirLogits) {
  for (const char* fixture : {"mixtral_tiny", "mixtral_tied_gqa", "llama_tiny", "olmoe_tiny", "olmoe_grouped"}) {
    SCOPED_TRACE(fixture);
    const Program program;
    Directory directory(fixture);
    directory.write(program / "d");
    expect_their_logits(program, directory, 0);
    if (directory.config.at("model_type") == "llama") continue;
    expect_their_logits(program, directory, 2);
    fs::remove_all(program / "d");
    directory.write(program / "d", 3);
    expect_their_logits(program, directory, 2);
    fs::remove_all(program / "d");
    directory.fuse();
    directory.config["rope_parameters"] = {{"rope_theta", directory.config.at("rope_theta")}, {"rope_type", "default"}};
    directory.config.erase("rope_theta");
    directory.write(program / "d", 2);
    expect_their_logits(program, directory, 0);
    expect_their_logits(program, directory, 2);
  }
}

/// The embedding and the output matrix grow to `vocabulary` ids.
void widen(Directory& directory, Index vocabulary) {
  directory.config["vocab_size"] = vocabulary;
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
    if (!directory.tensors.contains(name)) continue;
    const Tensor wide = random_tensor({vocabulary, directory.tensors.at(name).cols()}, 5);
    const Tensor& narrow = directory.tensors.at(name);
    std::copy_n(narrow.data<float>(), narrow.elements(), wide.data<float>());
    directory.tensors.at(name) = wide;
  }
}

void expect_tuning(const std::string& fixture, const char* architecture, const std::string& router) {
  const Program program;
  Directory directory(fixture);
  directory.write(program / "d");
  const std::string length = std::to_string(std::min<Index>(16, directory.config.at("max_position_embeddings")));
  program.write("tune", "run { steps: 2 precision: f32 threads: 1 } data { train: 'small' global_batch: 2 length: " + length +
                            " } init { checkpoint: 'd' }");
  MegatronWriter writer(program / "small", directory.config.at("vocab_size"));
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 500; ++i) ids.push_back(i * 7 % static_cast<int>(directory.config.at("vocab_size")));
  writer.add_document(ids);
  writer.finish();
  // The byte tokenizer has more ids than this vocabulary: the refusal names both.
  if (directory.config.at("vocab_size") < 257) {
    const auto refused = program.run("train --config tune --run-dir r");
    EXPECT_EQ(refused.code, 2);
    EXPECT_THAT(refused.err, HasSubstr("model.vocabulary is"));
    widen(directory, 257);
    directory.write(program / "d");
  }
  const auto resumed = program.run("train --config tune --run-dir r --resume d");
  EXPECT_EQ(resumed.code, 2);
  EXPECT_THAT(resumed.err, HasSubstr("d has a model but no state.json to go on from"));
  const auto tuned = program.run("train --config tune --run-dir r --set mesh.expert=2", 2);
  ASSERT_EQ(tuned.code, 0) << tuned.err;
  const json written = parse_json(program.read("r/checkpoints/step-00000002/config.json"));
  EXPECT_EQ(written.at("model_type"), directory.config.at("model_type"));
  EXPECT_EQ(written.at("architectures"), json::array({architecture}));
  // The family's own names, every one of them.
  const json index = parse_json(program.read("r/checkpoints/step-00000002/model.safetensors.index.json"));
  std::set<std::string> stored;
  for (const auto& [name, file] : index.at("weight_map").items()) stored.insert(name);
  std::set<std::string> expected;
  for (const auto& [name, values] : directory.tensors) expected.insert(name);
  EXPECT_EQ(stored, expected);
  EXPECT_TRUE(stored.contains(router));
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_key_value_heads", "num_experts_per_tok", "rms_norm_eps"})
    EXPECT_EQ(written.at(key), directory.config.at(key)) << key;
  // What it wrote is such a directory again, also without what only Switchyard reads.
  fs::remove(program / "r/checkpoints/step-00000002/state.json");
  directory.write_ids(program / "ids");
  const auto evaluated = program.run("eval --checkpoint r/checkpoints/step-00000002 --ids ids --logits logits");
  EXPECT_EQ(evaluated.code, 0) << evaluated.err;
}

/// Trains a SentencePiece model of 400 pieces into the program's folder `d`.
void write_tokenizer(const Program& program) {
  const auto trained = run_command("cd " + (program / "d") +
                                   " && spm_train --model_prefix=tokenizer --vocab_size=400 --normalization_rule_name=identity "
                                   "--byte_fallback=true --hard_vocab_limit=false --model_type=bpe --minloglevel=2 "
                                   "--input=/usr/share/common-licenses/GPL-3 && mv tokenizer.model tokenizer.m && rm tokenizer.vocab && "
                                   "mv tokenizer.m tokenizer.model");
  EXPECT_EQ(trained.code, 0) << trained.err;
}

/// Fine-tuning at learning rate 0, by two runs one after the other, changes nothing of a directory: neither its weights, nor what its files
/// say, nor what it computes.
void expect_round_trip(const std::string& fixture) {
  SCOPED_TRACE(fixture);
  const Program program;
  Directory directory(fixture);
  widen(directory, 420);
  directory.config.update({{"bos_token_id", 1}, {"eos_token_id", 2}, {"pad_token_id", 0}, {"initializer_range", 0.01}});
  if (directory.config.at("model_type") == "mixtral") directory.config["sliding_window"] = 32;
  directory.write(program / "d");
  write_tokenizer(program);
  program.write("d/generation_config.json", R"({"bos_token_id": 1, "eos_token_id": [2, 30], "temperature": 0.6})");
  program.write("d/tokenizer_config.json",
                R"({"bos_token": "<s>", "chat_template": "{{ messages }}", "tokenizer_class": "LlamaTokenizer"})");
  program.write("d/special_tokens_map.json", R"({"bos_token": "<s>"})");
  program.write("d/chat_template.jinja", "{{ messages }}");
  program.write("text.txt", "Everyone is permitted to copy and distribute verbatim copies.");
  program.write("tune",
                "run { steps: 1 precision: f32 threads: 1 } data { train: 'small' global_batch: 2 length: 16 } optimizer { peak_rate: 0 "
                "}");
  MegatronWriter writer(program / "small", 420);
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 500; ++i) ids.push_back(i * 7 % 300);
  writer.add_document(ids);
  writer.finish();
  const auto loss = [&](const std::string& checkpoint) {
    const auto result = program.run("eval --checkpoint " + checkpoint + " --text text.txt --length 16 --json");
    EXPECT_EQ(result.code, 0) << result.err;
    return parse_json(result.out).value("loss", -1.0);
  };
  const double before = loss("d");
  std::string from = "d";
  for (const char* run : {"first", "second"}) {
    const auto tuned = program.run("train --config tune --run-dir " + std::string(run) + " --set init.checkpoint=" + from);
    ASSERT_EQ(tuned.code, 0) << tuned.err;
    from = std::string(run) + "/checkpoints/step-00000001";
    EXPECT_EQ(loss(from), before) << run;
    const json written = parse_json(program.read(from + "/config.json"));
    for (const auto& [key, value] : directory.config.items()) {
      EXPECT_EQ(written.value(key, json()), value) << run << ": " << key;
    }
    EXPECT_EQ(parse_json(program.read(from + "/generation_config.json")), parse_json(program.read("d/generation_config.json"))) << run;
    for (const char* name : {"tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"})
      EXPECT_EQ(program.read(from + "/" + name), program.read("d/" + std::string(name))) << run << ": " << name;
    const json index = parse_json(program.read(from + "/model.safetensors.index.json"));
    EXPECT_EQ(index.at("weight_map").size(), directory.tensors.size());
    for (const auto& [name, file] : index.at("weight_map").items()) {
      const SafetensorsReader reader(program / (from + "/" + file.get<std::string>()));
      expect_same_bits(reader.read(cpu(), name, DType::f32), directory.tensors.at(name), name);
    }
  }
}

TEST(HuggingFaceDirectory, ComesBackFromFineTuningAtRateZero) {
  for (const char* fixture : {"mixtral_tiny", "llama_tiny", "olmoe_tiny"}) expect_round_trip(fixture);
}

TEST(HuggingFaceDirectory, StopsAtItsEndTokens) {
  const Program program;
  Directory directory("mixtral_tiny");
  widen(directory, 420);
  directory.config["eos_token_id"] = 419;
  directory.write(program / "d");
  write_tokenizer(program);
  const auto generated = [&](const std::string& options) {
    const auto result = program.run("generate --checkpoint d --prompt permitted --temperature 0 " + options);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out;
  };
  const std::string one = generated("--tokens 1");
  EXPECT_GT(generated("--tokens 20").size(), one.size() + 5);
  json all = json::array();
  for (int id = 0; id < 420; ++id) all.push_back(id);
  program.write("d/generation_config.json", json{{"eos_token_id", all}}.dump());
  EXPECT_LE(generated("--tokens 20").size(), one.size()) << "the first token ends the text";
}

TEST(HuggingFaceDirectory, OneFileComesBeforeAnIndex) {
  const Program program;
  Directory directory("mixtral_tiny");
  for (auto& [name, values] : directory.tensors) {
    if (name.ends_with("embed_tokens.weight")) values = random_tensor(values.shape(), 9);
  }
  directory.write(program / "d", 3);  // an earlier save, sharded
  directory = Directory("mixtral_tiny");
  directory.write(program / "d");
  expect_their_logits(program, directory, 0);
  const auto result = program.run("eval --checkpoint d --ids ids --logits logits2");
  EXPECT_THAT(result.err, HasSubstr("are read from model.safetensors; model.safetensors.index.json and its files are ignored"));
}

TEST(HuggingFaceDirectory, OfABaseModelHasNamesWithoutPrefix) {
  const Program program;
  Directory directory("mixtral_tied_gqa");
  std::map<std::string, Tensor> renamed;
  for (const auto& [name, values] : directory.tensors) renamed[name.starts_with("model.") ? name.substr(6) : name] = values;
  directory.tensors = renamed;
  directory.write(program / "d", 2);
  expect_their_logits(program, directory, 0);
  directory.tensors.erase("norm.weight");
  directory.write(program / "d", 2);
  expect_sentence(program.run("eval --checkpoint d --ids ids --logits l"), 2, {"missing: norm.weight"});
}

TEST(HuggingFaceDirectory, WithAnAttentionWindowTakesContextsUpToIt) {
  const Program program;
  Directory directory("mixtral_tiny");
  directory.config["sliding_window"] = 16;
  directory.write(program / "d");
  expect_their_logits(program, directory, 0);
  directory.config["sliding_window"] = 15;
  directory.write(program / "d");
  const auto result = program.run("eval --checkpoint d --ids ids --logits l");
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("attends to the last 15 tokens only (sliding_window)"));
  EXPECT_THAT(result.err, HasSubstr("sequences of 16 tokens; the model takes 1 to 15"));
  expect_sentence(program.run("eval --checkpoint d --ids ids --logits l --set model.positions=16"), 2,
                  {"model.positions is 16, more than model.window 15"});
}

TEST(HuggingFaceDirectory, WithOneExpertPerTokenIsUsed) {
  const Program program;
  Directory directory("mixtral_tiny");
  directory.config["num_experts_per_tok"] = 1;
  directory.write(program / "d");
  directory.write_ids(program / "ids");
  const auto result = program.run("eval --checkpoint d --ids ids --logits logits");
  EXPECT_EQ(result.code, 0) << result.err;
}

/// Sizes that the tensors contradict are found before memory is allocated: each of these would exhaust it.
TEST(HuggingFaceDirectory, WithAbsurdSizesIsRejectedAtOnce) {
  for (const auto& [key, value] : std::vector<std::pair<std::string, Index>>{{"num_hidden_layers", 1000000000},
                                                                             {"num_hidden_layers", 9999},
                                                                             {"num_local_experts", 2000000000},
                                                                             {"num_local_experts", 1000},
                                                                             {"vocab_size", 2147483647},
                                                                             {"hidden_size", 1 << 30},
                                                                             {"intermediate_size", 1 << 30},
                                                                             {"num_attention_heads", 1 << 30},
                                                                             {"head_dim", 1 << 30},
                                                                             {"num_key_value_heads", 1 << 29}}) {
    SCOPED_TRACE(key);
    const Program program;
    Directory directory("mixtral_tiny");
    directory.write_ids(program / "ids");
    directory.config[key] = value;
    directory.write(program / "d");
    const auto result = run_command("ulimit -v 4000000; " + program.line("eval --checkpoint d --ids ids --logits l", 0));
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_EQ(own_lines(result.err).size(), 1U) << result.err;
    EXPECT_THAT(result.err, testing::Not(HasSubstr("bad_alloc")));
  }
}

TEST(HuggingFaceDirectory, IsWhereFineTuningStarts) {
  expect_tuning("mixtral_tiny", "MixtralForCausalLM", "model.layers.0.block_sparse_moe.gate.weight");
}
TEST(HuggingFaceDirectory, OfOlmoeIsWrittenBackUnderItsNames) {
  expect_tuning("olmoe_tiny", "OlmoeForCausalLM", "model.layers.0.mlp.gate.weight");
}

TEST(HuggingFaceDirectory, ThatDoesNotFitIsRefused) {
  const Directory good("mixtral_tiny");
  const auto refused = [&](const std::string& what, const std::function<void(Directory&)>& spoil,
                           const std::string& words = "eval --checkpoint d --ids ids --logits l") {
    const Program program;
    Directory directory = Directory("mixtral_tiny");
    spoil(directory);
    directory.write(program / "d");
    good.write_ids(program / "ids");
    program.write("text", "some text");
    const auto result = program.run(words);
    EXPECT_EQ(result.code, 2) << what;
    EXPECT_THAT(result.err, HasSubstr(what));
    EXPECT_EQ(own_lines(result.err).size(), 1U) << result.err;
  };
  refused("missing: model.layers.0.block_sparse_moe.experts.1.w2.weight",
          [](Directory& d) { d.tensors.erase("model.layers.0.block_sparse_moe.experts.1.w2.weight"); });
  refused("left over: model.layers.0.self_attn.q_proj.bias",
          [](Directory& d) { d.tensors["model.layers.0.self_attn.q_proj.bias"] = Tensor::zeros(cpu(), {4}); });
  refused("of another shape: model.norm.weight is (3) instead of",
          [](Directory& d) { d.tensors["model.norm.weight"] = Tensor::zeros(cpu(), {3}); });
  refused("not in f32, bf16 or f16: model.norm.weight is I64", [](Directory& d) {
    const Tensor& norm = d.tensors.at("model.norm.weight");
    d.tensors["model.norm.weight"] = Tensor::zeros(cpu(), norm.shape(), DType::i64);
  });
  refused("hidden_act is \"gelu\"", [](Directory& d) { d.config["hidden_act"] = "gelu"; });
  refused("rope_scaling is", [](Directory& d) { d.config["rope_scaling"] = {{"type", "linear"}, {"factor", 2}}; });
  refused("bos_token_id is 96, beyond the vocabulary", [](Directory& d) { d.config["bos_token_id"] = 96; });
  refused(
      "has no tokenizer.model", [](Directory&) {}, "eval --checkpoint d --text text");
}

}  // namespace
}  // namespace yard
