#include "core/nn/parameter_count.h"
#include "launch/config_reader.h"
#include "launch/config_rules.h"
#include "launch/model_from_config.h"
#include "tests/support/support.h"

using namespace yard;

namespace {
std::string preset(const std::string& name) { return std::string(YARD_SOURCE) + "/launch/configs/" + name + ".textproto"; }
ModelShape shape_of(const std::string& name, int ranks = 1) { return shape_from_config(resolve(read_config(preset(name)), ranks)); }

struct Row {
  const char* name;
  Index all, active;
};
// The table of published and stated sizes; gpt3_175b is counted here, beside the 175 B of its paper.
const Row kRows[] = {
    {"mixtral_8x7b", 46702792704, 12879925248}, {"grok_1", 315684820992, 83756587008},      {"llama2_70b", 68976648192, 68976648192},
    {"openmoe_8b", 8779835392, 2740037632},     {"switch_base_128", 7386895104, 195760896}, {"gpt4_rumoured", 1799318999040, 481133137920},
    {"gpt3_175b", 174566105088, 174566105088},
};

TEST(Presets, HaveTheParametersOfTheTable) {
  for (const Row& row : kRows) {
    const ParameterCount count = count_parameters(shape_of(row.name));
    EXPECT_EQ(count.all(), row.all) << row.name;
    EXPECT_EQ(count.active(), row.active) << row.name;
  }
}

// Values of each matrix and vector one by one, as a checkpoint would list them.
struct Listed {
  Index all = 0, active = 0;
};
Listed listed_values(const ModelShape& s) {
  Listed sum;
  const auto add = [&](Index values, Index active = -1) {
    sum.all += values;
    sum.active += active < 0 ? values : active;
  };
  const auto feed_forward = [&](Index inner, Index copies, Index used) {
    for (const char* matrix : {"gate", "up", "down"}) {
      if (std::string(matrix) == "gate" && !s.gated) continue;
      for (Index copy = 0; copy < copies; ++copy) add(s.width * inner, copy < used ? s.width * inner : 0);
    }
  };
  add(s.vocabulary * s.width);
  if (!s.tied_output) add(s.vocabulary * s.width);
  for (Index layer = 0; layer < s.layers; ++layer) {
    for (int norm = 0; norm < (s.post_norms ? 4 : 2); ++norm) add(s.width);
    add(s.width * s.heads * s.head_width);
    add(s.width * s.kv_heads * s.head_width);
    add(s.width * s.kv_heads * s.head_width);
    add(s.heads * s.head_width * s.width);
    const bool moe = s.experts > 1 && layer >= s.first_dense_layers && layer % s.moe_every == s.moe_every - 1;
    if (!moe) {
      feed_forward(s.experts == 1 ? s.hidden : s.dense_hidden, 1, 1);
      continue;
    }
    add(s.experts * s.width);
    feed_forward(s.hidden, s.experts, s.top_k);
    if (s.shared_hidden > 0) feed_forward(s.shared_hidden, 1, 1);
    if (s.shared_gate) add(s.width);
    if (s.dense_after > 0) {
      feed_forward(s.dense_after, 1, 1);
      for (int norm = 0; norm < (s.post_norms ? 2 : 1); ++norm) add(s.width);
    }
  }
  add(s.width);
  return sum;
}

TEST(ParameterCount, EqualsTheSumOverEveryMatrix) {
  const RunConfig config = parse_config(
      "model { vocabulary: 100 width: 24 layers: 7 heads: 6 kv_heads: 2 head_width: 8 experts: 6 top_k: 3 hidden: 20 dense_hidden: 36 "
      "first_dense_layers: 2 moe_every: 2 shared_experts: 2 shared_gate: true dense_after: 12 post_norms: true }",
      "test");
  ModelShape shape = shape_from_config(resolve(config, 1));
  EXPECT_EQ(shape.moe_layers(), 2);  // layers 3 and 5
  EXPECT_EQ(shape.shared_hidden, 40);
  for (const bool gated : {true, false}) {
    for (const bool tied : {true, false}) {
      shape.gated = gated;
      shape.tied_output = tied;
      const ParameterCount count = count_parameters(shape);
      const Listed listed = listed_values(shape);
      EXPECT_EQ(count.all(), listed.all);
      EXPECT_EQ(count.active(), listed.active);
    }
  }
}

TEST(ParameterCount, SpreadsOnlyTheRoutedExpertsOverRanks) {
  const ParameterCount count = count_parameters(shape_of("mixtral_8x7b"));
  EXPECT_EQ(count.on_rank(1), count.all());
  EXPECT_EQ(count.on_rank(8) + 7 * count.experts / 8, count.all());
  EXPECT_EQ(count.on_rank(8), Index{1605636096} + Index{32} * 3 * 4096 * 14336);  // one expert a layer, and all the rest
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
  const ModelShape shape = shape_from_config(config);
  EXPECT_EQ(shape.vocabulary, 8192);
  EXPECT_EQ(shape.width, 384);
  EXPECT_EQ(shape.layers, 6);
  EXPECT_EQ(shape.heads, 6);
  EXPECT_EQ(shape.kv_heads, 2);
  EXPECT_EQ(shape.head_width, 64);
  EXPECT_EQ(shape.experts, 8);
  EXPECT_EQ(shape.hidden, 1024);
  EXPECT_EQ(shape.top_k, 2);
  EXPECT_EQ(config.data().length(), 256);
  EXPECT_EQ(config.data().global_batch() / config.data().accumulate(), 16);
}

TEST(Presets, SayWhatMakesThemSpecial) {
  const ModelShape grok = shape_of("grok_1");
  EXPECT_FLOAT_EQ(grok.attention_cap, 30);
  EXPECT_FLOAT_EQ(grok.embedding_scale, 78.38367176906169F);
  EXPECT_FLOAT_EQ(grok.output_scale, 0.5773502691896257F);
  EXPECT_TRUE(grok.post_norms);
  EXPECT_TRUE(grok.tied_output);
  EXPECT_FALSE(resolve(read_config(preset("grok_1")), 1).model().router().normalize());
  EXPECT_FLOAT_EQ(shape_of("openmoe_8b").attention_scale, 1);
  const ModelShape analogue = shape_of("switch_base_128");
  EXPECT_FALSE(analogue.gated);
  EXPECT_EQ(analogue.activation, ops::Activation::relu);
  EXPECT_FALSE(analogue.is_moe(0));
  EXPECT_TRUE(analogue.is_moe(1));
  EXPECT_FALSE(resolve(read_config(preset("switch_base_128")), 1).model().router().normalize());
}
}  // namespace
