#include <gmock/gmock.h>

#include "launch/config_rules.h"
#include "launch/memory_table.h"
#include "tests/support/rig.h"

namespace yard {
namespace {

using namespace test;

constexpr const char* kBase =
    "model { vocabulary: 1000 width: 64 layers: 3 heads: 4 kv_heads: 2 head_width: 16 experts: 8 top_k: 2 hidden: 96 dense_hidden: 128 } "
    "data { length: 128 global_batch: 1 } ";

RunConfig with(const std::string& text) {
  RunConfig config = config_of(kBase);
  config.MergeFrom(config_of(text));
  return resolve(config, 1);
}

double flops(const RunConfig& config, Index length) { return costs_of(config).training_flops_per_token(length); }

/// Multiply-adds of one token, every matmul written out, twice for the operations and three times for forward and both gradients. A row of
/// a causal sequence attends to half of the sequence on average.
double listed(const RunConfig& config, double length) {
  const auto d = [](Index value) { return static_cast<double>(value); };
  const auto& m = config.model();
  double sum = d(m.vocabulary()) * d(m.width());
  for (Index layer = 0; layer < m.layers(); ++layer) {
    const double q = d(m.width()) * d(m.heads()) * d(m.head_width());
    const double kv = d(m.width()) * d(m.kv_heads()) * d(m.head_width());
    sum += q + kv + kv + q;                                    // q, k, v, o
    sum += 2 * length / 2 * d(m.heads()) * d(m.head_width());  // scores, and the sum of values
    const auto feed_forward = [&](Index inner) { return (m.gated() ? 3 : 2) * d(m.width()) * d(inner); };
    const bool moe = m.experts() > 1 && layer >= m.first_dense_layers() && (layer + 1) % m.moe_every() == 0;
    if (!moe) {
      sum += feed_forward(m.experts() == 1 ? m.hidden() : m.dense_hidden());
      continue;
    }
    for (Index k = 0; k < m.top_k(); ++k) sum += feed_forward(m.hidden());
    if (m.shared_hidden() > 0) sum += feed_forward(m.shared_hidden());
    if (m.dense_after() > 0) sum += feed_forward(m.dense_after());
  }
  return 6 * sum;
}

TEST(Costs, FlopsAreThoseOfEveryMatmul) {
  for (const char* text : {"", "model { gated: false moe_every: 2 dense_after: 40 }",
                           "model { gated: false first_dense_layers: 1 shared_hidden: 50 shared_gate: true dense_after: 40 }",
                           "model { experts: 1 top_k: 1 qk_norm: width }"}) {
    for (const Index length : {1, 77, 128, 256}) EXPECT_DOUBLE_EQ(flops(with(text), length), listed(with(text), length)) << text;
  }
}

TEST(Costs, FlopsAreMegatronsFormulaForMixtral) {
  // 3 x (6 T H F K + 4 T H^2 (1 + g/n) p + 2 T^2 H p + 2 T H V) over T, with p = 1 here (numerics, section 14).
  const double h = 64;
  const double t = 128;
  const double layer = 6 * h * 96 * 2 + 4 * h * h * (1 + 0.5) + 2 * t * h;
  EXPECT_DOUBLE_EQ(flops(with(""), 128), 3 * (3 * layer + 2 * h * 1000));
}

TEST(Costs, ATiedOutputIdleExpertsAndRecomputationChangeNoFlops) {
  const double expected = flops(with(""), 64);
  EXPECT_DOUBLE_EQ(flops(with("model { tied_output: true experts: 64 recompute: full }"), 64), expected);
}

/// The memory that a forward pass leaves allocated, compared with what the modules report. Sizes are chosen so that the allocator does not
/// round up.
struct Kept {
  double measured = 0, expected = 0;
};
Kept kept_by(const std::string& text, DType compute) {
  constexpr Index kTokens = 512;
  RunConfig config = config_of(
      "model { vocabulary: 64 width: 64 layers: 3 heads: 4 head_width: 16 experts: 4 top_k: 2 hidden: 128 } "
      "data { length: 64 global_batch: 8 } losses { balance: 0 }");
  config.MergeFrom(config_of(text));
  Rig rig(config, compute);
  const Tokens tokens = batch_of(random_integers({8, 64}, 1, 0, 64), random_integers({8, 64}, 2, 0, 64));
  Context context = rig.context(tokens);
  const auto allocator = context.stream.allocator();
  Kept kept;
  {
    Tape unused;  // packs weights and whatever else is kept from the first pass on
    (void)rig.model().transformer->nats(context, 1, unused);
  }
  const auto before = static_cast<double>(allocator->in_use());
  Tape tape;
  (void)rig.model().transformer->nats(context, 1, tape);
  kept.measured = static_cast<double>(allocator->in_use()) - before;
  const ModelCosts costs = rig.model().transformer->costs();
  ModelCosts forward;
  for (const auto& [group, cost] : costs.entries()) {
    Cost only = cost;
    only.recomputed = {};
    forward.add(group, only);
  }
  kept.expected = kTokens * forward.saved_bytes_per_token(compute == DType::bf16 ? 2 : 4);
  return kept;
}

TEST(Costs, SavedBytesAreWhatTheTapeHolds) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    for (const char* text : {"", "model { experts: 1 top_k: 1 }", "model { kv_heads: 2 gated: false post_norms: true }",
                             "model { top_k: 4 dense_after: 64 }", "model { first_dense_layers: 1 moe_every: 2 dense_hidden: 256 }",
                             "model { f32_residual: true }", "model { recompute: moe }", "model { recompute: full }",
                             "model { router { capacity_factor: 4 } }", "model { router { kind: sigmoid_top_k groups: 4 group_top_k: 2 } }",
                             "model { router { kind: sigmoid_top_k capacity_factor: 4 } } losses { z: 0 }",
                             "model { expert_dropout: 0.5 dropout: 0.5 }", "model { kv_heads: 2 qk_norm: width }"}) {
      const Kept kept = kept_by(text, compute);
      EXPECT_NEAR(kept.measured, kept.expected, 0.005 * kept.measured) << text << " " << name_of(compute);
    }
    // In f32 the router and the shared experts keep the same row, which is counted twice but allocated once.
    for (const char* text : {"model { shared_experts: 1 }", "model { shared_experts: 1 shared_gate: true }"}) {
      const Kept kept = kept_by(text, compute);
      const double twice = compute == DType::bf16 ? 0 : 3 * 512 * 64 * 4 * (std::string(text).find("gate") == std::string::npos ? 1 : 2);
      EXPECT_NEAR(kept.measured, kept.expected - twice, 0.005 * kept.measured) << text << " " << name_of(compute);
    }
  }
}

TEST(Costs, ARecomputedLayerIsCountedOnceInBackward) {
  const double whole = costs_of(with("")).saved_bytes_per_token(4);
  const double recomputed = costs_of(with("model { recompute: full }")).saved_bytes_per_token(4);
  const double one = whole - costs_of(with("model { layers: 2 }")).saved_bytes_per_token(4);
  constexpr double kInput = 4 * 64;
  constexpr double kPlan = 4 * (4 * 2 + 1);  // of the exchange, which a recomputed layer uses again
  EXPECT_DOUBLE_EQ(recomputed, whole - 2 * one + 3 * kInput + 2 * kPlan);
}

TEST(MemoryTable, AddsUpWhatTheCostsSay) {
  RunConfig config = with("mesh { expert: 1 data: 1 }");
  const ModelCosts costs = costs_of(config);
  const auto parameters = static_cast<double>(costs.parameters());
  const MemoryEstimate memory = estimate_memory(costs, config, DType::f32);
  EXPECT_DOUBLE_EQ(memory.weights, 4 * parameters);
  EXPECT_DOUBLE_EQ(memory.packed, 4 * (parameters - 1000 * 64));
  EXPECT_DOUBLE_EQ(memory.gradients, 4 * parameters);
  EXPECT_DOUBLE_EQ(memory.optimizer, 8 * parameters);
  EXPECT_DOUBLE_EQ(memory.activations, 128 * costs.saved_bytes_per_token(4));
  EXPECT_DOUBLE_EQ(memory.exchange, 2.0 * 128 * 2 * 64 * 4);
  config.mutable_mesh()->set_expert(4);
  config.mutable_mesh()->set_data(2);
  const auto dense = static_cast<double>(costs.replicated_parameters());
  const auto experts = static_cast<double>(costs.spread_parameters());
  const MemoryEstimate spread = estimate_memory(costs, config, DType::bf16);
  EXPECT_DOUBLE_EQ(spread.weights, 2 * (dense + experts / 4));
  EXPECT_DOUBLE_EQ(spread.optimizer, 12 * (dense / 8 + experts / 8));
  EXPECT_DOUBLE_EQ(spread.activations, 16 * costs.saved_bytes_per_token(2));
  EXPECT_THAT(model_summary(costs, config), testing::HasSubstr("8 experts of 96, top-2, vocabulary 1000"));
}

}  // namespace
}  // namespace yard
