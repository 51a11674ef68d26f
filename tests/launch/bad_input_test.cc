#include <gmock/gmock.h>
#include <sys/stat.h>

#include "tests/launch/program.h"

using namespace yard;
using test::expect_sentence;
using test::Program;
namespace fs = std::filesystem;

namespace {

struct Case {
  std::string words;              // after 'switchyard'
  std::vector<std::string> says;  // all of these
};

void expect_refused(const Program& program, const std::vector<Case>& cases, int ranks) {
  for (const Case& each : cases) {
    SCOPED_TRACE(each.words + " on " + std::to_string(ranks) + " ranks");
    const auto result = program.run(each.words, ranks);
    expect_sentence(result, 2, each.says);
    if (ranks == 0) {
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    }
  }
}

Case set(const std::string& setting, std::vector<std::string> says) {
  return {"train --config c --run-dir r --set " + setting, std::move(says)};
}

TEST(BadInput, WordsOfTheCommandLineAreRefused) {
  const Program program;
  const std::vector<Case> cases = {
      {"", {"no command is given", "train, eval, generate"}},
      {"trian --config c", {"no command 'trian'", "did you mean 'train'?"}},
      {"train --confg c", {"'--confg'", "did you mean '--config'?"}},
      {"train --frobnicate", {"'--frobnicate'", "train --help"}},
      {"train", {"--config FILE"}},
      {"train --config", {"--config"}},
      {"train --config c word", {"train"}},
      {"train --config nowhere", {"nowhere", "No such file"}},
      {"eval --checkpoint r", {"--data PREFIX, --text FILE, or --ids FILE with --logits FILE"}},
      {"eval --checkpoint r --ids a", {"--ids and --logits go together"}},
      {"generate --prompt a", {"--checkpoint FOLDER"}},
      {"generate --checkpoint r --prompt a --tokens 0", {"--tokens", "at least 1"}},
      {"tokenize --text c --out t", {"--tokenizer"}},
  };
  expect_refused(program, cases, 0);
  expect_refused(program, {cases[0], cases[1], cases[2], cases[4], cases[7]}, 2);
}

TEST(BadInput, FieldsAreRefused) {
  const Program program;
  program.write("misspelt", Program::config() + "optimizer { peek_rate: 1e-3 }\n");
  program.write("typed", Program::config() + "optimizer { peak_rate: 'fast' }\n");
  program.write("broken", "run { steps: ");
  const std::vector<Case> cases = {
      {"train --config misspelt", {"misspelt", "peek_rate", "peak_rate"}},
      {"train --config typed", {"typed", "peak_rate"}},
      {"train --config broken", {"broken"}},
      set("run.stepz=4", {"run.stepz", "did you mean 'run.steps'?"}),
      set("run.steps=many", {"run.steps must be a whole number, not 'many'"}),
      set("run.precision=bf17", {"run.precision", "auto, bf16 or f32"}),
      set("run.steps=0", {"run.steps", "at least 1"}),
      set("model.top_k=5", {"model.top_k is 5", "from 1 to 4"}),
      set("mesh.tensor=2", {"mesh.tensor is 2", "must be 1"}),
      set("mesh.pipeline=2", {"mesh.pipeline is 2", "must be 1"}),
      set("mesh.expert=3", {"model.experts is 4", "mesh.expert 3", "1, 2 or 4"}),
      set("mesh.expert=2", {"mesh.expert is 2", "mpirun -np 2"}),
      set("data.global_batch=9 --set data.accumulate=2", {"data.global_batch is 9", "8 or 10"}),
      set("model.positions=16", {"model.positions is 16", "data.length 32"}),
      set("model.vocabulary=200", {"model.vocabulary is 200", "257"}),
      set("data.train=", {"data.train"}),
  };
  expect_refused(program, cases, 0);
  expect_refused(program,
                 {cases[0], cases[4], set("mesh.expert=4", {"mesh.expert is 4", "mpirun -np 4"}),
                  set("mesh.expert=2 --set mesh.data=2", {"2 x 2 = 4", "2 ranks run"}),
                  set("data.global_batch=7", {"data.global_batch is 7", "6 or 8"}), cases[14]},
                 2);
  expect_refused(program, {set("model.top_k=5", {"model.top_k is 5"}), set("data.global_batch=6", {"data.global_batch is 6", "4 or 8"})},
                 4);
  EXPECT_FALSE(program.has("r")) << "nothing may be made before everything has been checked";
}

TEST(BadInput, TokenFilesAreRefused) {
  const Program program;
  const auto copy = [&](const std::string& from, const std::string& to) { fs::copy_file(program / from, program / to); };
  copy("text.idx", "short.idx");
  copy("text.bin", "short.bin");
  fs::resize_file(program / "short.bin", 1000);
  copy("text.idx", "cut.idx");
  copy("text.bin", "cut.bin");
  fs::resize_file(program / "cut.idx", 50);
  copy("text.idx", "alone.idx");
  program.write("foreign.bin", "These are words and no tokens.");
  program.write("nothing.bin", "");
  const std::vector<Case> cases = {
      set("data.train=nowhere", {"nowhere", "No such file"}),
      set("data.validation=nowhere", {"nowhere", "No such file"}),
      set("data.train=short", {"short.bin is truncated", "1000"}),
      set("data.train=cut", {"cut.idx is truncated"}),
      set("data.train=alone", {"alone.bin"}),
      set("data.train=foreign.bin", {"foreign.bin is foreign"}),
      set("data.train=nothing.bin", {"nothing.bin is empty"}),
      set("data.train=text.idx --set data.length=20000", {"text", "too short", "10000 tokens", "data.length 20000"}),
      set("data.tokenizer=nowhere.model", {"nowhere.model"}),
  };
  expect_refused(program, cases, 0);
  expect_refused(program, {cases[0], cases[2], cases[7]}, 2);
  EXPECT_FALSE(program.has("r/checkpoints"));
}

TEST(BadInput, EmptyTextIsRefused) {
  const Program program;
  program.write("empty", "");
  ASSERT_EQ(program.run("train --config c --run-dir trained").code, 0);
  const std::vector<Case> cases = {
      {"tokenize --text empty --tokenizer bytes --out t", {"empty"}},
      {"tokenize --text nowhere --tokenizer bytes --out t", {"nowhere", "No such file"}},
      {"tokenizer --text empty --vocabulary 300 --out t.model", {"empty"}},
      {"eval --checkpoint trained --text empty", {"empty is empty"}},
      {"eval --checkpoint trained --data nowhere", {"nowhere"}},
      {"eval --checkpoint trained --text c --length 64", {"--length 64", "model.positions, 32"}},
      {"generate --checkpoint trained --prompts empty", {"no prompt in empty"}},
      {"generate --checkpoint trained --no-start --prompt ''", {"empty prompt", "--no-start"}},
      {"eval --checkpoint trained --ids c --logits l", {"c is not a safetensors file"}},
  };
  expect_refused(program, cases, 0);
  expect_refused(program, {cases[3]}, 2);
  EXPECT_FALSE(program.has("t.bin"));
}

TEST(BadInput, CheckpointsThatCannotBeReadAreRefused) {
  const Program program;
  ASSERT_EQ(program.run("train --config c --run-dir r --set mesh.expert=2", 2).code, 0);
  const std::string step = "k/checkpoints/step-00000004/";
  const auto fresh = [&] {
    fs::remove_all(program / "k");
    fs::copy(program / "r", program / "k", fs::copy_options::recursive);
  };
  const std::string again = "train --config c --run-dir k --set run.steps=6 --set mesh.expert=2";
  const auto refused = [&](const std::string& words, int ranks, std::vector<std::string> says) {
    expect_refused(program, {{words, std::move(says)}}, ranks);
  };
  // A damaged newest checkpoint is passed over, and that is said; who names it is refused.
  const auto passed_over = [&](const std::string& why) {
    const auto result = program.run(again, 2);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_THAT(result.out, testing::HasSubstr("skipped k/checkpoints/step-00000004: " + why));
    EXPECT_THAT(result.out, testing::HasSubstr("goes on from k/checkpoints/step-00000002 at step 2"));
  };
  const std::string named = again + " --resume k/checkpoints/step-00000004";
  fresh();
  fs::resize_file(program / (step + "model-00002-of-00002.safetensors"), 3000);
  refused("eval --checkpoint k --text c", 0, {"model-00002-of-00002.safetensors is truncated"});
  refused("generate --checkpoint k --prompt a", 2, {"model-00002-of-00002.safetensors is truncated"});
  refused(named, 2, {"damaged", "model-00002-of-00002.safetensors", "3000"});
  passed_over("model-00002-of-00002.safetensors has 3000 bytes");
  fresh();
  program.write(step + "state.json", "{\"step\": 4");
  refused(named, 2, {"state.json", "damaged"});
  passed_over("k/checkpoints/step-00000004/state.json is damaged");
  fresh();
  program.write(step + "state.json", "{\"format_version\": 1}");
  refused(named, 2, {"state.json is damaged"});
  fresh();
  program.write(step + "config.json", "{}");
  passed_over("config.json has 2 bytes");
  fresh();
  program.write(step + "model.safetensors.index.json", "{\"weight_map\": {\"a\": 3}}");
  refused("eval --checkpoint k --text c", 0, {"model.safetensors.index.json", "damaged"});
  fresh();
  fs::remove_all(program / step);
  for (const std::string latest : {"step-00000004\n", "", "\n", "nonsense", "step-00000099"}) {
    program.write("k/checkpoints/latest", latest);
    for (const std::string words : {"eval --checkpoint k --text c", "generate --checkpoint k --prompt a --tokens 2"}) {
      const auto result = program.run(words);
      expect_sentence(result, 0, {"k/checkpoints/latest", "the newest complete one is used, k/checkpoints/step-00000002"});
    }
  }
  fs::remove(program / "k/checkpoints/latest");
  expect_sentence(program.run("eval --checkpoint k --text c", 2), 0, {"latest does not exist", "step-00000002"});
  EXPECT_THAT(program.run(again, 2).out, testing::HasSubstr("goes on from k/checkpoints/step-00000002 at step 2"));
  fresh();
  fs::remove_all(program / "k/checkpoints/step-00000002");
  fs::remove_all(program / step);
  refused("eval --checkpoint k --text c", 0, {"latest names step-00000004", "there is no other one"});
  fresh();
  refused(again + " --set model.hidden=64", 2, {"of another shape", "w1.weight is (32, 32) instead of (64, 32)", "more"});
  refused(again + " --set model.layers=3", 2, {"missing: model.layers.2.", "more"});
  refused(again + " --set model.layers=1", 2, {"left over: model.layers.1.", "more"});
  EXPECT_EQ(program.run("train --config c --run-dir k --set run.steps=6 --set mesh.expert=1", 2).code, 0) << "another layout reads it";
  refused(again + " --resume nowhere", 2, {"no checkpoint in nowhere"});
  refused("eval --checkpoint nowhere --text c", 0, {"no checkpoint in nowhere"});
  refused("train --config c --run-dir z --set init.checkpoint=nowhere", 0, {"no checkpoint in nowhere"});
}

TEST(BadInput, RunDirectoriesThatCannotBeWrittenAreRefused) {
  const Program program;
  expect_refused(program,
                 {{"train --config c --run-dir c/deeper", {"run directory c/deeper", "--run-dir"}},
                  {"train --config c --run-dir /proc/nobody", {"run directory /proc/nobody", "--run-dir"}}},
                 0);
  expect_refused(program, {{"train --config c --run-dir c/deeper", {"run directory c/deeper", "--run-dir"}}}, 2);
}

TEST(BadInput, PathsThatAreNoFilesAreRefusedAtOnce) {
  const Program program;
  ASSERT_EQ(program.run("train --config c --run-dir r --set run.steps=2").code, 0);
  ASSERT_EQ(::mkfifo((program / "pipe").c_str(), 0666), 0);
  fs::create_directory(program / "folder");
  fs::create_symlink("loop", program / "loop");
  fs::create_symlink("nothing", program / "dangling");
  const std::vector<std::pair<std::string, std::string>> kinds = {
      {"pipe", "it is a pipe"}, {"folder", "it is a folder"}, {"loop", "Too many levels"}, {"dangling", "No such file"}};
  std::vector<Case> cases;
  for (const auto& [path, reason] : kinds) {
    for (const std::string& words :
         {"train --config " + path, "train --config c --run-dir q --set data.train=" + path,
          "train --config c --run-dir q --set data.validation=" + path, "train --config c --run-dir q --set data.tokenizer=" + path,
          "tokenize --tokenizer bytes --out o --text " + path, "eval --checkpoint r --text " + path, "eval --checkpoint r --data " + path,
          "eval --checkpoint r --logits o --ids " + path}) {
      cases.push_back({words, {path, reason}});
    }
  }
  for (const std::string words :
       {"eval --text c --checkpoint ", "train --config c --run-dir r --resume ", "train --config c --run-dir q --set init.checkpoint="}) {
    cases.push_back({words + "pipe", {"no checkpoint in pipe"}});
    cases.push_back({words + "folder", {"no checkpoint in folder"}});
    cases.push_back({words + "loop", {"loop", "Too many levels"}});
  }
  cases.push_back({"train --config c --run-dir loop", {"loop", "Too many levels"}});
  cases.push_back({"train --config c --run-dir pipe", {"pipe", "Not a directory"}});
  expect_refused(program, cases, 0);
  expect_refused(program, {cases[0], cases[1], {"eval --text c --checkpoint loop", {"Too many levels"}}}, 2);
}

}  // namespace
