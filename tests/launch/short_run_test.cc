#include <gmock/gmock.h>

#include <cmath>
#include <map>

#include "core/data/tokenizer.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "tests/launch/program.h"

using namespace yard;
using nlohmann::json;
using test::cpu;
using test::Program;
using testing::ElementsAre;
using testing::HasSubstr;
namespace fs = std::filesystem;

namespace {

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// English that every Debian machine has: the texts of common licences; where they are missing, this program's own documentation.
std::string real_text() {
  std::string text;
  for (const char* name : {"GPL-3", "GPL-2", "Apache-2.0"}) text += content(std::string("/usr/share/common-licenses/") + name);
  if (text.size() < 40000)
    text += content(std::string(YARD_SOURCE) + "/proto/config.proto") + content(std::string(YARD_SOURCE) + "/README.md");
  return text;
}

/// What a token of the stream costs, in nats, for someone who knows how often each is there: -sum p ln p.
double unigram_nats(const TokenStream& stream) {
  std::map<std::int32_t, double> counts;
  for (Index i = 0; i < stream.length(); ++i) ++counts[stream.token(i)];
  double nats = 0;
  for (const auto& [id, count] : counts)
    nats -= count / static_cast<double>(stream.length()) * std::log(count / static_cast<double>(stream.length()));
  return nats;
}

std::string config(const std::string& tokenizer, Index vocabulary) {
  return "run { steps: 100 seed: 7 precision: f32 threads: 1 log_every: 10 validate_every: 50 }\n"
         "mesh { expert: 2 }\n"
         "model { vocabulary: " +
         std::to_string(vocabulary) +
         " width: 64 layers: 2 heads: 4 kv_heads: 2 experts: 4 top_k: 2 hidden: 64 }\n"
         "data { train: 'real' validation: 'real' tokenizer: '" +
         tokenizer +
         "' length: 64 validation_windows: 32 global_batch: 16 }\n"
         "optimizer { peak_rate: 1e-2 }\n"
         "checkpoint { every: 50 }\n";
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    names.push_back(name.starts_with("events.out.tfevents.") ? "events.out.tfevents." : name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<json> metrics_of(const Program& program) {
  std::vector<json> lines;
  std::istringstream text(program.read("r/metrics.jsonl"));
  for (std::string line; std::getline(text, line);) lines.push_back(parse_json(line));
  return lines;
}

void expect_ended(const test::CommandResult& result) {
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err, "");
}

/// The loss of the last ten steps lies below what the unigram distribution of the same tokens costs, and so does the validation loss.
void expect_learned(const Program& program, Index vocabulary) {
  const double unigram = unigram_nats(TokenStream(program / "real", TokenFormat::automatic, vocabulary));
  const auto metrics = metrics_of(program);
  ASSERT_EQ(metrics.size(), 100U);
  EXPECT_NEAR(metrics.front()["loss"].get<double>(), std::log(static_cast<double>(vocabulary)), 0.2) << "an untrained model knows nothing";
  double last = 0;
  for (std::size_t i = 90; i < 100; ++i) last += metrics[i]["loss"].get<double>() / 10;
  EXPECT_GT(unigram, 2);
  EXPECT_LT(last, unigram - 0.05);
  EXPECT_LT(metrics.back()["validation_loss"].get<double>(), unigram - 0.05);
}

void expect_fields(const std::vector<json>& metrics) {
  for (std::size_t i = 0; i < metrics.size(); ++i) {
    const json& line = metrics[i];
    EXPECT_EQ(line["step"], i + 1);
    EXPECT_EQ(line["tokens"], (i + 1) * 16 * 64);
    for (const char* name : {"loss", "balance_loss", "z_loss", "grad_norm", "learning_rate", "step_seconds", "tokens_per_second",
                             "model_tflops", "memory_bytes", "layers", "communication", "phases", "routing", "skipped_steps"}) {
      EXPECT_TRUE(line.contains(name)) << name << " is not in step " << i + 1;
    }
    ASSERT_EQ(line["layers"].size(), 2U);
    for (const json& layer : line["layers"]) {
      Index tokens = 0;
      for (const json& count : layer["tokens_per_expert"]) tokens += count.get<Index>();
      EXPECT_EQ(tokens, 16 * 64 * 2) << "all ranks, top-2";
      EXPECT_GE(layer["max_over_mean"].get<double>(), 1);
      EXPECT_LE(layer["entropy"].get<double>(), std::log(4.0) + 1e-9);
    }
    for (const json& each : line["communication"]) {
      for (const char* name :
           {"name", "calls", "bytes_within", "bytes_between", "seconds", "exposed_seconds", "hidden_seconds", "slowest_rank"}) {
        EXPECT_TRUE(each.contains(name)) << name;
      }
    }
    EXPECT_EQ(line.contains("validation_loss"), (i + 1) % 50 == 0) << i;
    EXPECT_EQ(line.contains("bits_per_byte"), (i + 1) % 50 == 0) << i;
  }
}

/// (3, 17) ids, as people hand them over to compare implementations.
void write_ids(const std::string& path) {
  Tensor ids(cpu(), {3, 17}, DType::i64);
  for (Index i = 0; i < ids.elements(); ++i) ids.data<std::int64_t>()[i] = 32 + i * 13 % 90;
  SafetensorsEntry entry;
  entry.name = "input_ids";
  entry.dtype = "I64";
  entry.shape = {3, 17};
  SafetensorsWriter writer(path, {entry});
  writer.write(ids);
  writer.finish();
}

void expect_same_logits(const Program& program, Index vocabulary) {
  write_ids(program / "ids");
  expect_ended(program.run("eval --checkpoint r --ids ids --logits one", 0));
  expect_ended(program.run("eval --checkpoint r --ids ids --logits two", 2));
  const Tensor one = SafetensorsReader(program / "one").read(cpu(), "logits", DType::f32);
  const Tensor two = SafetensorsReader(program / "two").read(cpu(), "logits", DType::f32);
  EXPECT_EQ(one.shape(), (Shape{3, 17, vocabulary}));
  test::expect_close(two, test::to_f64(one), 1e-6, "logits on 2 ranks");
}

void expect_same_totals(const Program& program, const std::string& what) {
  const auto one = program.run("eval --checkpoint r --json " + what);
  const auto two = program.run("eval --checkpoint r --json " + what, 2);
  expect_ended(one);
  expect_ended(two);
  const json a = parse_json(one.out);
  const json b = parse_json(two.out);
  EXPECT_EQ(a["tokens"], b["tokens"]);
  EXPECT_EQ(a["bytes"], b["bytes"]);
  for (const char* name : {"loss", "perplexity", "bits_per_byte"}) {
    EXPECT_NEAR(a[name].get<double>(), b[name].get<double>(), 1e-6 * a[name].get<double>()) << name;
  }
}

TEST(ShortRun, BytesOfRealTextAreLearnedOnTwoRanks) {
  const Program program;
  program.write("real.txt", real_text());
  expect_ended(program.run("tokenize --text real.txt --tokenizer bytes --out real"));
  program.write("c", config("bytes", 257));
  expect_ended(program.run("train --config c --run-dir r", 2));
  expect_learned(program, 257);
  expect_fields(metrics_of(program));
  EXPECT_THAT(names_in(program / "r"),
              ElementsAre("checkpoints", "config.textproto", "data_scan.json", "events.out.tfevents.", "lock", "log.txt", "metrics.jsonl"));
  EXPECT_THAT(names_in(program / "r/checkpoints"), ElementsAre("latest", "step-00000050", "step-00000100"));
  EXPECT_EQ(program.read("r/checkpoints/latest"), "step-00000100\n");
  EXPECT_GT(fs::file_size(program / "r/log.txt"), 200U);

  expect_same_logits(program, 257);
  expect_same_totals(program, "--text real.txt --windows 20");
  expect_same_totals(program, "--data real --windows 20");
  const std::string greedy = "generate --checkpoint r --prompt 'The li' --tokens 20 --temperature 0";
  const auto alone = program.run(greedy);
  expect_ended(alone);
  EXPECT_THAT(alone.out, testing::StartsWith("The li"));
  EXPECT_GT(alone.out.size(), 10U);
  EXPECT_EQ(program.run(greedy, 2).out, alone.out);

  // With more steps it goes on where it was.
  const auto more = program.run("train --config c --run-dir r --set run.steps=102", 2);
  expect_ended(more);
  EXPECT_THAT(more.out, HasSubstr("goes on from r/checkpoints/step-00000100 at step 100"));
  EXPECT_EQ(metrics_of(program).size(), 102U);
  EXPECT_EQ(program.read("r/checkpoints/latest"), "step-00000102\n");
}

TEST(ShortRun, PiecesOfRealTextAreLearnedOnTwoRanks) {
  if (test::run_command("command -v spm_train").code != 0) GTEST_SKIP() << "spm_train (package sentencepiece) is not installed";
  const Program program;
  program.write("real.txt", real_text());
  ASSERT_EQ(program.run("tokenizer --text real.txt --vocabulary 400 --out pieces.model").code, 0);
  ASSERT_EQ(program.run("tokenize --text real.txt --tokenizer pieces.model --out real").code, 0);
  const Index vocabulary = open_tokenizer(program / "pieces.model")->vocabulary();
  program.write("c", config("pieces.model", vocabulary));
  expect_ended(program.run("train --config c --run-dir r", 2));
  expect_learned(program, vocabulary);
  EXPECT_TRUE(program.has("r/checkpoints/step-00000100/tokenizer.model"));
  fs::remove(program / "pieces.model");  // the checkpoint has its own
  expect_same_totals(program, "--text real.txt --windows 10");
  const auto alone = program.run("generate --checkpoint r --prompt 'The license' --tokens 8 --temperature 0");
  expect_ended(alone);
  EXPECT_THAT(alone.out, testing::StartsWith("The license"));
}

}  // namespace
