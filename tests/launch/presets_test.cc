#include <chrono>

#include "launch/builder.h"
#include "launch/config_reader.h"
#include "launch/config_rules.h"
#include "launch/model_from_config.h"
#include "tests/support/rig.h"

using namespace yard;

namespace {
std::string preset(const std::string& name) { return std::string(YARD_SOURCE) + "/launch/configs/" + name + ".textproto"; }
RunConfig config_of_preset(const std::string& name) { return resolve(read_config(preset(name)), 1); }
ModelSettings settings_of(const std::string& name) { return model_from_config(config_of_preset(name)); }

struct Row {
  const char* name;
  Index all, active;
};
// The table of published and stated sizes; gpt3_175b is counted here, beside the 175 B of its paper.
const Row kRows[] = {
    {"mixtral_8x7b", 46702792704, 12879925248}, {"grok_1", 315684820992, 83756587008},      {"llama2_70b", 68976648192, 68976648192},
    {"openmoe_8b", 8779835392, 2740037632},     {"switch_base_128", 7386895104, 195760896}, {"gpt4_rumoured", 1799318999040, 481133137920},
    {"gpt3_175b", 174566105088, 174566105088},  {"olmoe_1b_7b", 6919161856, 1282017280},
};

TEST(Presets, HaveTheParametersOfTheTable) {
  for (const Row& row : kRows) {
    const ModelCosts costs = costs_of(config_of_preset(row.name));
    EXPECT_EQ(costs.parameters(), row.all) << row.name;
    EXPECT_EQ(costs.active_parameters(), row.active) << row.name;
  }
}

// Values of each matrix and vector one by one, as a checkpoint would list them.
struct Listed {
  Index all = 0, active = 0;
};
Listed listed_values(const ModelSettings& model) {
  Listed sum;
  const auto add = [&](Index values, Index active = -1) {
    sum.all += values;
    sum.active += active < 0 ? values : active;
  };
  const auto feed_forward = [&](const FeedForwardSettings& settings, Index copies, Index used) {
    for (const char* matrix : {"gate", "up", "down"}) {
      if (std::string(matrix) == "gate" && !settings.gated) continue;
      for (Index copy = 0; copy < copies; ++copy) add(model.width * settings.hidden, copy < used ? model.width * settings.hidden : 0);
    }
  };
  add(model.vocabulary * model.width);
  if (!model.tied_output) add(model.vocabulary * model.width);
  for (const LayerSettings& layer : model.layers) {
    for (int norm = 0; norm < (layer.post_norms ? 4 : 2); ++norm) add(model.width);
    add(model.width * layer.attention.heads * layer.attention.head_width);
    add(model.width * layer.attention.kv_heads * layer.attention.head_width);
    add(model.width * layer.attention.kv_heads * layer.attention.head_width);
    add(layer.attention.heads * layer.attention.head_width * model.width);
    if (layer.attention.qk_norm == QkNorm::width) {
      add(layer.attention.heads * layer.attention.head_width);
      add(layer.attention.kv_heads * layer.attention.head_width);
    }
    if (layer.moe() == nullptr) {
      feed_forward(std::get<FeedForwardSettings>(layer.feed_forward), 1, 1);
      continue;
    }
    const MoeSettings& moe = *layer.moe();
    add(moe.experts * model.width);
    feed_forward(moe.expert, moe.experts, moe.top_k);
    if (moe.shared) feed_forward(*moe.shared, 1, 1);
    if (moe.shared_gate) add(model.width);
    if (layer.dense_after) {
      feed_forward(*layer.dense_after, 1, 1);
      for (int norm = 0; norm < (layer.post_norms ? 2 : 1); ++norm) add(model.width);
    }
  }
  add(model.width);
  return sum;
}

TEST(ParameterCount, EqualsTheSumOverEveryMatrix) {
  RunConfig config = parse_config(
      "model { vocabulary: 100 width: 24 layers: 7 heads: 6 kv_heads: 2 head_width: 8 experts: 6 top_k: 3 hidden: 20 dense_hidden: 36 "
      "first_dense_layers: 2 moe_every: 2 shared_experts: 2 shared_gate: true dense_after: 12 post_norms: true qk_norm: width }",
      "test");
  for (const bool gated : {true, false}) {
    for (const bool tied : {true, false}) {
      config.mutable_model()->set_gated(gated);
      config.mutable_model()->set_tied_output(tied);
      const RunConfig whole = resolve(config, 1);
      EXPECT_EQ(model_from_config(whole).moe_layers(), 2);  // layers 3 and 5
      const ModelCosts costs = costs_of(whole);
      const Listed listed = listed_values(model_from_config(whole));
      EXPECT_EQ(costs.parameters(), listed.all);
      EXPECT_EQ(costs.active_parameters(), listed.active);
    }
  }
}

/// The parameters that modules declare, of every preset: they have shapes and names without memory.
TEST(ParameterCount, IsThatOfTheParametersThatModulesDeclare) {
  std::vector<std::string> names = {"quickstart", "benchmark"};
  for (const Row& row : kRows) names.emplace_back(row.name);
  for (const std::string& name : names) {
    const RunConfig config = config_of_preset(name);
    test::Rank rank;
    const auto mesh = rank.runtime.make_mesh(config.mesh());
    Model model = build_model(config, *mesh, rank.runtime.stream(), DType::f32);
    Index all = 0;
    Index spread = 0;
    model.visit([&](Index, Parameter& parameter) {
      all += parameter.shape.elements();
      if (parameter.kind == ParamKind::expert) spread += parameter.shape.elements();
    });
    const ModelCosts costs = model.transformer->costs();
    EXPECT_EQ(costs.parameters(), all) << name;
    EXPECT_EQ(costs.spread_parameters(), spread) << name;
  }
}

TEST(ParameterCount, SpreadsOnlyTheRoutedExpertsOverRanks) {
  const ModelCosts costs = costs_of(config_of_preset("mixtral_8x7b"));
  EXPECT_EQ(costs.spread_parameters(), Index{32} * 8 * 3 * 4096 * 14336);
  EXPECT_EQ(costs.replicated_parameters(), 1605636096);
}

/// Kimi K2's shape: a module tree without memory is quick to build, however many experts it has.
TEST(ParameterCount, OfALargeModelTakesNoMemory) {
  const RunConfig config = resolve(parse_config("model { vocabulary: 163840 width: 7168 layers: 61 heads: 64 kv_heads: 64 head_width: 192 "
                                                "experts: 384 top_k: 8 hidden: 2048 first_dense_layers: 1 dense_hidden: 18432 "
                                                "shared_experts: 1 }",
                                                "test"),
                                   1);
  const auto start = std::chrono::steady_clock::now();
  const ModelCosts costs = costs_of(config);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  EXPECT_EQ(costs.parameters(ModelPart::experts), Index{60} * 384 * 3 * 7168 * 2048);
  EXPECT_EQ(costs.active_parameters(), costs.replicated_parameters() + Index{60} * 8 * 3 * 7168 * 2048);
}

TEST(Presets, FitTheirDataIntoTheirContextAndNameNone) {
  for (const Row& row : kRows) {
    const RunConfig config = resolve(read_config(preset(row.name)), 1);
    EXPECT_LE(config.data().length(), config.model().positions()) << row.name;
    EXPECT_TRUE(config.data().train().empty()) << row.name;
  }
}

TEST(Presets, TheBenchmarkIsW1) {
  const RunConfig config = resolve(read_config(preset("benchmark")), 2);
  const ModelSettings model = model_from_config(config);
  EXPECT_EQ(model.vocabulary, 8192);
  EXPECT_EQ(model.width, 384);
  EXPECT_EQ(model.depth(), 6);
  for (const LayerSettings& layer : model.layers) {
    EXPECT_EQ(layer.attention.heads, 6);
    EXPECT_EQ(layer.attention.kv_heads, 2);
    EXPECT_EQ(layer.attention.head_width, 64);
    ASSERT_NE(layer.moe(), nullptr);
    EXPECT_EQ(layer.moe()->experts, 8);
    EXPECT_EQ(layer.moe()->expert.hidden, 1024);
    EXPECT_EQ(layer.moe()->top_k, 2);
  }
  EXPECT_EQ(config.data().length(), 256);
  EXPECT_EQ(config.data().global_batch() / config.data().accumulate(), 16);
}

TEST(Presets, SayWhatMakesThemSpecial) {
  const ModelSettings grok = settings_of("grok_1");
  EXPECT_FLOAT_EQ(grok.layer(0).attention.cap, 30);
  EXPECT_FLOAT_EQ(grok.embedding_scale, 78.38367176906169F);
  EXPECT_FLOAT_EQ(grok.output_scale, 0.5773502691896257F);
  EXPECT_TRUE(grok.layer(63).post_norms);
  EXPECT_TRUE(grok.tied_output);
  EXPECT_FALSE(config_of_preset("grok_1").model().router().normalize());
  EXPECT_FLOAT_EQ(settings_of("openmoe_8b").layer(0).attention.scale, 1);
  const ModelSettings analogue = settings_of("switch_base_128");
  ASSERT_NE(analogue.layer(1).moe(), nullptr);
  EXPECT_FALSE(analogue.layer(1).moe()->expert.gated);
  EXPECT_EQ(analogue.layer(1).moe()->expert.activation, ops::Activation::relu);
  EXPECT_EQ(analogue.layer(0).moe(), nullptr);
  EXPECT_FALSE(config_of_preset("switch_base_128").model().router().normalize());
}
}  // namespace
