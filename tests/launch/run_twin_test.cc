// Whole runs on a GPU, real or emulated, beside the same runs on the processor.
#include <nlohmann/json.hpp>

#include "tests/launch/program.h"

namespace yard {
namespace {

using namespace test;
using nlohmann::json;

constexpr const char* kSmall =
    "--config c --set run.steps=5 --set run.threads=2 --set data.accumulate=2 --set data.validation=text --set data.validation_windows=5 "
    "--set run.validate_every=2 --set losses.z=0.001 --set optimizer.warmup_steps=2 ";
/// What a plain model leaves out: every op takes part in one of the two.
constexpr const char* kEverything =
    "--set model.kv_heads=2 --set model.post_norms=true --set model.shared_experts=1 --set model.shared_gate=true "
    "--set model.router.capacity_factor=1 --set model.router.jitter=0.01 --set model.dropout=0.1 --set model.expert_dropout=0.1 "
    "--set model.recompute=moe --set model.attention_cap=30 --set model.tied_output=true --set model.first_dense_layers=1 "
    "--set model.embedding_scale=2 --set model.output_scale=0.5 --set losses.scope=sequence --set data.document_mask=true ";
// Under mpirun the leak sanitizer meets modules that Open MPI has unloaded.
constexpr const char* kNoLeaks = "env ASAN_OPTIONS=detect_leaks=0 ";

class TwinProgram : public Program {
 public:
  CommandResult on(const std::string& device, const std::string& words, int ranks = 0) const {
    return run_command(line("train " + words + " --set run.device=" + device, ranks, ranks > 0 ? kNoLeaks : ""));
  }
  std::vector<json> metrics(const std::string& run_dir) const {
    std::vector<json> lines;
    std::istringstream text(read(run_dir + "/metrics.jsonl"));
    for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
    return lines;
  }
};

/// Losses, norms and, in f32, every expert's tokens of two runs agree step by step.
void expect_same_course(const std::vector<json>& actual, const std::vector<json>& expected, double bound, bool same_routing) {
  ASSERT_FALSE(expected.empty());
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const json& a = actual[i];
    const json& e = expected[i];
    ASSERT_EQ(a.at("step"), e.at("step"));
    for (const char* name : {"loss", "balance_loss", "z_loss", "grad_norm", "validation_loss", "bits_per_byte"}) {
      ASSERT_EQ(a.contains(name), e.contains(name)) << name;
      if (!e.contains(name)) continue;
      const double wanted = e.at(name).get<double>();
      const double allowed = (std::string(name) == "grad_norm" ? 10 : 1) * bound * std::abs(wanted);
      EXPECT_NEAR(a.at(name).get<double>(), wanted, allowed) << name << " of step " << e.at("step");
    }
    if (!same_routing) continue;
    for (std::size_t layer = 0; layer < e.at("layers").size(); ++layer) {
      EXPECT_EQ(a.at("layers")[layer].at("tokens_per_expert"), e.at("layers")[layer].at("tokens_per_expert")) << "step " << e.at("step");
    }
    EXPECT_EQ(a.value("dropped_fraction", 0.0), e.value("dropped_fraction", 0.0));
  }
}

TEST(RunTwin, TheLossesOfARunAreTheProcessors) {
  const TwinProgram run;
  for (const std::string& model : {std::string(), std::string(kEverything)}) {
    for (const bool rounded : {false, true}) {
      const std::string words = kSmall + model + "--set run.precision=" + (rounded ? "bf16" : "f32") + " --resume never --run-dir ";
      const CommandResult cpu = run.on("cpu", words + "cpu");
      ASSERT_EQ(cpu.code, 0) << cpu.err;
      const CommandResult gpu = run.on("cuda", words + "gpu");
      ASSERT_EQ(gpu.code, 0) << gpu.err;
      SCOPED_TRACE(words);
      expect_same_course(run.metrics("gpu"), run.metrics("cpu"), rounded ? 3e-3 : 1e-6, !rounded);
      EXPECT_NE(run.read("gpu/log.txt").find("GPU"), std::string::npos) << "log.txt names the device";
    }
  }
}

TEST(RunTwin, ARankUnderMpirunTrainsOnItsGpu) {
  const TwinProgram run;
  const std::string words = std::string(kSmall) + "--run-dir ";
  const CommandResult alone = run.on("cuda", words + "alone");
  ASSERT_EQ(alone.code, 0) << alone.err;
  const CommandResult started = run.on("cuda", words + "started", 1);
  ASSERT_EQ(started.code, 0) << started.err;
  expect_same_course(run.metrics("started"), run.metrics("alone"), 0, true);
}

TEST(RunTwin, CheckpointsGoFromDeviceToDevice) {
  const TwinProgram run;
  const std::string words = std::string(kSmall) + "--set run.precision=bf16 --set checkpoint.every=2 --run-dir ";
  ASSERT_EQ(run.on("cuda", words + "whole").code, 0);
  const auto whole = run.metrics("whole");
  ASSERT_EQ(whole.size(), 5U);
  for (const char* device : {"cuda", "cpu"}) {
    // What the GPU wrote after step 2, in the background, goes on with steps 3 to 5: on the GPU with the same bits.
    const std::string go_on = std::string(device) + "_goes_on";
    const CommandResult result = run.on(device, words + go_on + " --resume '" + (run / "whole/checkpoints/step-00000002") + "'");
    ASSERT_EQ(result.code, 0) << result.err;
    const bool same = std::string(device) == "cuda";
    expect_same_course(run.metrics(go_on), {whole.begin() + 2, whole.end()}, same ? 0 : 3e-3, same);
  }
  EXPECT_EQ(run.read("cuda_goes_on/checkpoints/step-00000005/model-00001-of-00001.safetensors"),
            run.read("whole/checkpoints/step-00000005/model-00001-of-00001.safetensors"));
  // And what the processor wrote goes on on the GPU.
  const CommandResult back = run.on("cuda", words + "back --resume '" + (run / "cpu_goes_on/checkpoints/step-00000004") + "'");
  ASSERT_EQ(back.code, 0) << back.err;
  expect_same_course(run.metrics("back"), {run.metrics("cpu_goes_on").back()}, 3e-3, false);
}

TEST(RunTwin, GeneratesAndEvaluatesAsOnTheProcessor) {
  const TwinProgram run;
  ASSERT_EQ(run.on("cuda", std::string(kSmall) + "--run-dir r").code, 0);
  run.write("prompts", "one\na longer prompt\nx\n");
  const auto both = [&](const std::string& words) {
    const CommandResult cpu = run.run(words + " --set run.device=cpu");
    const CommandResult gpu = run.run(words + " --set run.device=cuda");
    EXPECT_EQ(gpu.code, 0) << gpu.err;
    EXPECT_EQ(cpu.code, 0) << cpu.err;
    return std::pair{gpu.out, cpu.out};
  };
  const auto [written, expected] = both("generate --checkpoint r --prompts prompts --tokens 12 --temperature 0");
  EXPECT_EQ(written, expected);
  EXPECT_GT(written.size(), 30U);
  const auto [gpu, cpu] = both("eval --checkpoint r --data text --windows 7 --json");
  EXPECT_NEAR(json::parse(gpu).at("loss").get<double>(), json::parse(cpu).at("loss").get<double>(), 1e-5);
}

TEST(RunTwin, WhatGpusCannotDoYetIsSaid) {
  const TwinProgram run;
  expect_sentence(run.on("cuda", kSmall, 2), 2, {"run.device", "2 ranks", "run.device=cpu"});
  expect_sentence(run.run("bench layer --set run.device=cuda"), 2, {"run.device", "bench"});
  expect_sentence(run.run("verify-layout --config c --layouts 1x1,2x1 --set run.device=cuda"), 2, {"run.device", "layouts"});
}

}  // namespace
}  // namespace yard
