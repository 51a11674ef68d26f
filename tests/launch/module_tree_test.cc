#include <set>

#include "tests/support/rig.h"

namespace yard {
namespace {

using namespace test;

/// Small models with every setting that adds or takes away a parameter.
std::vector<std::string> shapes() {
  return {"model { experts: 4 top_k: 2 }",
          "model { experts: 1 }",
          "model { experts: 4 top_k: 2 tied_output: true kv_heads: 1 head_width: 10 }",
          "model { experts: 4 top_k: 3 gated: false activation: relu }",
          "model { experts: 4 top_k: 2 post_norms: true dense_after: 6 }",
          "model { experts: 4 top_k: 2 first_dense_layers: 1 moe_every: 2 dense_hidden: 7 dense_after: 5 }",
          "model { experts: 4 top_k: 2 qk_norm: width kv_heads: 1 }",
          "model { experts: 4 top_k: 2 shared_experts: 2 }",
          "model { experts: 4 top_k: 2 shared_hidden: 3 shared_gate: true post_norms: true gated: false }",
          "model { experts: 4 top_k: 1 recompute: full f32_residual: true }"};
}

TEST(ModuleTree, HasTheParametersThatItsCostsCount) {
  for (const std::string& text : shapes()) {
    SCOPED_TRACE(text);
    RunConfig config = config_of("model { vocabulary: 17 width: 8 layers: 4 heads: 2 hidden: 9 } data { length: 4 global_batch: 1 }");
    config.MergeFrom(config_of(text));
    Rig rig(config);
    const ModelCosts costs = rig.model().transformer->costs();
    Index all = 0;
    Index routers = 0;
    Index experts = 0;
    std::set<std::string> names;
    rig.model().visit([&](Index, Parameter& parameter) {
      Index in_slices = 0;
      for (const Slice& slice : parameter.slices) {
        EXPECT_TRUE(names.insert(slice.name).second) << slice.name << " twice";
        EXPECT_EQ(slice.row, in_slices) << parameter.name << ": slices lie one after the other";
        in_slices += slice.rows;
      }
      EXPECT_EQ(in_slices, parameter.shape[0]) << parameter.name << ": slices cover the whole value";
      all += parameter.shape.elements();
      if (parameter.rate == RateClass::router) routers += parameter.shape.elements();
      if (parameter.kind == ParamKind::expert) experts += parameter.shape.elements();
      EXPECT_EQ(parameter.decay, parameter.shape.rank() == 2) << parameter.name << ": decay is for matrices";
    });
    EXPECT_EQ(all, costs.parameters());
    EXPECT_EQ(routers, costs.parameters(ModelPart::router));
    EXPECT_EQ(experts, costs.spread_parameters());
    EXPECT_EQ(experts, costs.parameters(ModelPart::experts));
  }
}

TEST(ModuleTree, ReadsTheSameNamesOnEveryShareOfTheExperts) {
  std::set<std::string> of_one;
  const RunConfig config = config_of(
      "model { vocabulary: 17 width: 8 layers: 2 heads: 2 hidden: 9 experts: 4 top_k: 2 shared_experts: 1 } data { length: 4 global_batch: "
      "4 }");
  Rig alone(config);
  for (const auto& [name, value] : alone.values()) of_one.insert(name);
  std::vector<std::set<std::string>> of_rank(4);
  run_local_world(4, [&](Communicator& world) {
    Rank rank(world);
    RunConfig resolved = alone.config();
    resolved.mutable_mesh()->set_expert(4);
    resolved.mutable_mesh()->set_data(1);
    const auto mesh = rank.runtime.make_mesh(resolved.mesh());
    Model model = build_model(resolved, *mesh, rank.runtime.stream(), DType::f32);
    model.visit([&](Index, Parameter& parameter) {
      for (const Slice& slice : parameter.slices) of_rank.at(static_cast<std::size_t>(world.rank())).insert(slice.name);
    });
  });
  std::set<std::string> together;
  for (const auto& names : of_rank) {
    EXPECT_LT(names.size(), of_one.size());
    together.insert(names.begin(), names.end());
  }
  EXPECT_EQ(together, of_one);
}

/// Initial values depend on (seed, name, element), so that no layout changes them; matrices into the residual stream start smaller.
TEST(ModuleTree, StartsFromTheDeviationsOfTheRules) {
  Rig rig(
      config_of("model { vocabulary: 200 width: 32 layers: 8 heads: 2 hidden: 64 experts: 4 top_k: 2 } init { deviation: 0.05 } "
                "data { length: 4 global_batch: 1 }"));
  const auto deviation = [&](const std::string& name) {
    double sum = 0;
    const auto values = to_f64(rig.values().at(name));
    for (const double value : values) sum += value * value;
    return std::sqrt(sum / static_cast<double>(values.size()));
  };
  EXPECT_NEAR(deviation("model.embed_tokens.weight"), 0.05, 0.005);
  EXPECT_NEAR(deviation("lm_head.weight"), 0.05, 0.005);
  EXPECT_NEAR(deviation("model.layers.3.self_attn.q_proj.weight"), 0.05, 0.005);
  EXPECT_NEAR(deviation("model.layers.3.block_sparse_moe.gate.weight"), 0.05, 0.015);
  EXPECT_NEAR(deviation("model.layers.3.block_sparse_moe.experts.2.w1.weight"), 0.05, 0.005);
  EXPECT_NEAR(deviation("model.layers.3.self_attn.o_proj.weight"), 0.0125, 0.00125);
  EXPECT_NEAR(deviation("model.layers.3.block_sparse_moe.experts.2.w2.weight"), 0.0125, 0.00125);
  EXPECT_EQ(deviation("model.norm.weight"), 1);
}

}  // namespace
}  // namespace yard
