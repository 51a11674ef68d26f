#include <fmt/format.h>
#include <gmock/gmock.h>

#include "core/io/json.h"
#include "tests/launch/program.h"

namespace yard {
namespace {

using namespace test;
using nlohmann::json;
using testing::HasSubstr;

constexpr const char* kShort = " --repeat 2 --warmup 1 --precision f32 --threads 1 --json j";
constexpr const char* kSmall =
    " --set model.vocabulary=64 --set model.width=32 --set model.layers=2 --set model.heads=2 --set model.kv_heads=1 --set "
    "model.head_width=16"
    " --set model.experts=4 --set model.hidden=24 --set data.length=16 --set data.global_batch=4";

/// Runs a benchmark and gives its objects, each checked to be whole.
std::vector<json> measured(const Program& program, const std::string& words, int ranks) {
  const auto result = program.run("bench " + words + kShort, ranks);
  EXPECT_EQ(result.code, 0) << result.err;
  const json objects = parse_json(program.read("j"));
  for (const json& each : objects) {
    for (const char* field : {"median_seconds", "p05_seconds", "p95_seconds", "tflops", "floor_seconds", "floor_ratio"})
      EXPECT_TRUE(each.at(field).is_number()) << each.dump();
    EXPECT_LE(each.at("p05_seconds").get<double>(), each.at("p95_seconds").get<double>());
    EXPECT_EQ(each.at("precision"), "f32");
    EXPECT_EQ(each.at("threads"), 1);
    EXPECT_EQ(each.at("ranks"), std::max(1, ranks));
    EXPECT_THAT(result.out, HasSubstr(each.at("name").get<std::string>()));
  }
  return objects;
}

TEST(Bench, GemmMeasuresEveryProductBesideItsFloor) {
  const Program program;
  for (const int ranks : {0, 2}) {
    const auto objects = measured(program, std::string("gemm --spread 3") + kSmall, ranks);
    EXPECT_EQ(objects.size(), 15U);
    for (const json& each : objects) {
      EXPECT_GT(each.at("floor_seconds"), 0) << each.dump();
      EXPECT_GT(each.at("tflops"), 0) << each.dump();
    }
  }
}

TEST(Bench, LayerCountsTheProductsOfItsTokens) {
  const Program program;
  for (const int ranks : {0, 2}) {
    const auto objects = measured(program, "layer --tokens 64 --width 32 --hidden 24 --experts 4 --top-k 2", ranks);
    ASSERT_EQ(objects.size(), 1U);
    const double flops = objects[0].at("tflops").get<double>() * 1e12 * objects[0].at("median_seconds").get<double>();
    // 128 rows, three matrices of 32 x 24, three directions, and the router's 32 x 4; a rank's share follows its experts' load.
    const double whole = 2.0 * (128 * 3 * 32 * 24 + 64 * 32 * 4) * 3;
    if (ranks == 0) {
      EXPECT_NEAR(flops, whole, 1e-6 * whole);
    }
    EXPECT_GT(flops, 0.1 * whole);
    EXPECT_LE(flops, 1.000001 * whole);
  }
}

TEST(Bench, StepTellsItsParts) {
  const Program program;
  for (const int ranks : {0, 2}) {
    const auto objects = measured(program, std::string("step") + kSmall, ranks);
    double parts = 0;
    for (const json& each : objects) {
      if (!each.at("name").get<std::string>().starts_with("step")) parts += each.at("median_seconds").get<double>();
    }
    const json& step = objects.back();
    EXPECT_THAT(step.at("name").get<std::string>(), testing::StartsWith("step"));
    EXPECT_GE(parts, 0.9 * step.at("median_seconds").get<double>());
    EXPECT_GT(step.at("floor_ratio"), 0);
  }
}

TEST(Bench, GenerateReadsTheWeightsThatATokenMeets) {
  const Program program;
  for (const int ranks : {0, 2}) {
    const auto objects = measured(program, std::string("generate --prompt-tokens 5 --new-tokens 3") + kSmall, ranks);
    ASSERT_EQ(objects.size(), 2U);
    EXPECT_EQ(objects[0].at("name"), "prompt of 5 tokens");
    EXPECT_GT(objects[1].at("floor_ratio"), 0);
    // Two layers of attention (32 x 64 and 32 x 32), two of four experts (3 x 32 x 24), router and norms, then norm and output (64 x 32).
    const double bytes = 4.0 * (2 * (32 * 64 + 32 * 32 + 2 * 3 * 32 * 24 + 4 * 32 + 2 * 32) + 32 + 64 * 32);
    EXPECT_EQ(objects[1].at("floor_library"), fmt::format("reading the {:.1f} MB of weights that a token meets", bytes * 1e-6));
  }
}

TEST(Bench, WrongWordsAreRefused) {
  const Program program;
  expect_sentence(program.run("bench"), 2, {"gemm, layer, step or generate"});
  expect_sentence(program.run("bench gem"), 2, {"not 'gem'", "did you mean 'gemm'?"});
  expect_sentence(program.run("bench gemm --repeat 0"), 2, {"--repeat must be at least 1"});
  expect_sentence(program.run("bench generate --new-tokens 0"), 2, {"--new-tokens must be at least 1"});
  expect_sentence(program.run("bench layer --precision f8"), 2, {"run.precision", "f8"});
  expect_sentence(program.run("bench layer --tokens 65", 2), 2, {"--tokens is 65", "multiple of the 2 ranks"});
}

}  // namespace
}  // namespace yard
