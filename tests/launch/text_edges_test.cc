#include <gmock/gmock.h>

#include "core/data/utf8.h"
#include "core/io/json.h"
#include "tests/launch/program.h"

using namespace yard;
using nlohmann::json;
using test::expect_sentence;
using test::Program;
using testing::HasSubstr;
using testing::Not;

namespace {

const std::string kPieces = std::string(YARD_FIXTURES) + "/added_tokens/tokenizer.model";  // 340 ids

/// A model of 512 ids, trained for two steps on ids that the bytes tokenizer has.
void train_wide(const Program& program) {
  const auto result = program.run("train --config c --run-dir wide --set model.vocabulary=512 --set run.steps=2");
  ASSERT_EQ(result.code, 0) << result.err;
}

TEST(TextEdges, NoIdWithoutTextIsDrawn) {
  const Program program;
  train_wide(program);
  const std::string words = "generate --checkpoint wide --temperature 1e6 --top-p 1 --tokens 20 ";
  program.write("prompts", "a\nb\n");
  const auto one = program.run(words + "--prompt a");
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_GT(one.out.size(), 5U);
  const auto two = program.run(words + "--prompts prompts", 2);
  EXPECT_EQ(two.code, 0) << two.err;
  EXPECT_EQ(two.out.substr(0, one.out.size()), one.out) << "a text is the same, printed token by token or at the end of its batch";
  const auto pieces = program.run(words + "--prompt the --set data.tokenizer=" + kPieces);
  EXPECT_EQ(pieces.code, 0) << pieces.err;
  EXPECT_EQ(pieces.out.substr(0, 3), "the");
}

TEST(TextEdges, PromptsMayBeOfAnyEditor) {
  const Program program;
  train_wide(program);
  const std::string words = "generate --checkpoint wide --tokens 3 --prompts ";
  program.write("unix", "one\ntwo");
  program.write("windows", "\xef\xbb\xbfone\r\n\r\n\ntwo\r\n");
  const auto expected = program.run(words + "unix");
  EXPECT_EQ(expected.code, 0) << expected.err;
  EXPECT_EQ(program.run(words + "windows").out, expected.out);
  EXPECT_EQ(program.run(words + "unix", 2).out, expected.out);
  program.write("blank", "\r\n\n");
  expect_sentence(program.run(words + "blank"), 2, {"no prompt in blank"});
  program.write("wide16", std::string("\xff\xfe") + "a");
  expect_sentence(program.run(words + "wide16", 2), 2, {"wide16 begins with the byte-order mark of UTF-16"});
  expect_sentence(program.run(words + "wide"), 2, {"wide", "it is a folder"});
}

TEST(TextEdges, AnExplicitTokenizerWins) {
  const Program program;
  train_wide(program);
  program.write("text", "the expert takes a token and gives it back");
  const auto eval = [&](const std::string& more) { return program.run("eval --checkpoint wide --json " + more); };
  const json bytes = parse_json(eval("--text text").out);
  const json pieces = parse_json(eval("--text text --set data.tokenizer=" + kPieces).out);
  EXPECT_EQ(bytes["tokens"], 42);
  EXPECT_EQ(pieces["bytes"], 42);
  EXPECT_LT(pieces["tokens"], 42);
  expect_sentence(eval("--text text --set data.tokenizer=none"), 2, {"has no tokenizer", "data.tokenizer"});
  const json without = parse_json(eval("--data text.bin --set data.tokenizer=none").out);
  EXPECT_FALSE(without.contains("bits_per_byte"));
  EXPECT_FALSE(without.contains("bytes"));
  EXPECT_EQ(without["tokens"], 10000) << "the end of text is still known";
  MegatronWriter writer(program / "beyond", 512);
  writer.add_document(std::vector<std::int32_t>{1, 2, 400, 3});
  writer.finish();
  const json beyond = parse_json(eval("--data beyond").out);
  EXPECT_EQ(beyond["tokens"], 4);
  EXPECT_FALSE(beyond.contains("bits_per_byte")) << "the tokenizer has no text for all of them";
  expect_sentence(eval("--data beyond --set data.tokenizer=bytes"), 2, {"beyond holds id 400 at position 2", "data.tokenizer"});
  expect_sentence(program.run("verify-layout --config c --set data.tokenizer=" + kPieces), 2,
                  {"layout 1x1: model.vocabulary is 257", "has 340 ids"});
  ASSERT_EQ(program.run("train --config c --run-dir small --set run.steps=1").code, 0);
  for (const char* words : {"eval --text text", "eval --data text.bin", "generate --prompt a"}) {
    expect_sentence(program.run(std::string(words) + " --checkpoint small --set data.tokenizer=" + kPieces), 2,
                    {"model.vocabulary is 257", "has 340 ids", "data.tokenizer"});
  }
}

TEST(TextEdges, SettingsThatACommandDoesNotUseAreRejected) {
  const Program program;
  train_wide(program);
  const std::string eval = "eval --checkpoint wide --data text ";
  const std::string generate = "generate --checkpoint wide --prompt a --tokens 2 ";
  const auto rejected = [&](const std::string& words, const std::string& setting, std::vector<std::string> says) {
    says.push_back("does not use " + setting.substr(0, setting.find('=')));
    expect_sentence(program.run(words + " --set " + setting), 2, says);
  };
  rejected(eval, "optimizer.peak_rate=1", {"eval"});
  rejected(eval, "data.global_batch=2", {"--batch"});
  rejected(eval, "data.validation_windows=2", {"--windows"});
  rejected(eval, "model.router.capacity_factor=1", {"evaluation_capacity"});
  rejected(eval, "losses.balance=1", {"eval"});
  rejected(eval + "--length 8", "data.length=4", {"--length"});
  rejected(generate, "data.length=8", {"generate"});
  rejected(generate, "optimizer.scale.router=2", {"generate"});
  rejected(generate, "checkpoint.every=2", {"generate"});
  rejected("bench gemm", "optimizer.peak_rate=1", {"bench gemm"});
  rejected("verify-layout --config c", "run.steps=3", {"--steps"});
  rejected("verify-layout --config c", "mesh.expert=2", {"--layouts"});
  expect_sentence(program.run("bench layer --config c"), 2, {"bench layer", "--config c"});
  expect_sentence(program.run("bench generate --config c --set model.positions=64"), 2, {"model.positions is 64", "257"});
  expect_sentence(program.run(eval + "--set mesh.expert=2"), 2, {"mesh.expert is 2", "mpirun -np 2"});
  for (const char* setting : {"mesh.expert=1", "mesh.data=2", "mesh.expert=2"}) {
    const auto result = program.run(eval + "--set " + setting, 2);
    EXPECT_EQ(result.code, 0) << setting << ": " << result.err;
  }
  EXPECT_EQ(program.run(eval + "--set data.length=16").code, 0);
  const auto shorter = program.run(generate + "--set model.positions=16");
  EXPECT_EQ(shorter.code, 0) << "the checkpoint's data.length is not what was asked for: " << shorter.err;
}

/// GPT-2's ids with the default tokenizer: once such a run died at its first validation.
TEST(TextEdges, TokensOfAnotherTokenizerAreTrainedOn) {
  const Program program;
  MegatronWriter writer(program / "gpt2", 400);
  for (std::int32_t first = 0; first < 300; ++first) writer.add_document(std::vector<std::int32_t>{first, first + 1, first + 2, 350});
  writer.finish();
  const std::string train =
      "train --config c --set model.vocabulary=400 --set data.train=gpt2 --set data.validation=gpt2 --set run.validate_every=2 ";
  const auto result = program.run(train + "--run-dir r", 2);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("data.tokenizer is none: gpt2 holds id 350"));
  EXPECT_THAT(result.out, HasSubstr("step 4: validation loss"));
  const std::string metrics = program.read("r/metrics.jsonl");
  EXPECT_THAT(metrics, HasSubstr("validation_loss"));
  EXPECT_THAT(metrics, Not(HasSubstr("bits_per_byte")));
  EXPECT_THAT(program.read("r/config.textproto"), HasSubstr("tokenizer: \"none\""));
  const std::string checkpoint = "r/checkpoints/step-00000004";
  EXPECT_FALSE(program.has(checkpoint + "/tokenizer.json"));
  EXPECT_FALSE(parse_json(program.read(checkpoint + "/config.json")).contains("eos_token_id"));
  const auto eval = program.run("eval --checkpoint r --data gpt2 --json");
  EXPECT_EQ(eval.code, 0) << eval.err;
  EXPECT_FALSE(parse_json(eval.out).contains("bits_per_byte")) << eval.out;
  EXPECT_EQ(parse_json(eval.out)["tokens"], 1199);
  expect_sentence(program.run("generate --checkpoint r --prompt a"), 2, {"r/checkpoints", "has no tokenizer", "data.tokenizer=FILE"});
  ASSERT_EQ(program.run(train + "--run-dir e --set data.end_of_text=350").code, 0);
  EXPECT_EQ(parse_json(program.run("eval --checkpoint e --data gpt2 --json").out)["tokens"], 1200) << "the end of text stands first";
  EXPECT_EQ(parse_json(program.read("e/checkpoints/step-00000004/config.json"))["eos_token_id"], 350);
  for (const int ranks : {0, 2}) {
    expect_sentence(program.run(train + "--run-dir n --set data.tokenizer=bytes", ranks), 2, {"gpt2 holds id 350", "257 ids", "bytes"});
    expect_sentence(program.run(train + "--run-dir n --set data.tokenizer=" + kPieces + " --set model.vocabulary=300", ranks), 2, {"300"});
  }
  EXPECT_FALSE(program.has("n"));
}

}  // namespace
