#include <omp.h>

#include <cstring>
#include <set>

#include "tests/support/rig.h"

namespace yard {
namespace {

using namespace test;

/// Routers and policies, and whether a token's result depends on later tokens. This is the written list of those that do: nothing else may.
struct Case {
  std::string router;
  bool training_leaks = false, evaluation_leaks = false;
  int top_k = 2;
};
std::vector<Case> cases() {
  return {
      {"kind: \"softmax_top_k\""},
      {"normalize: false scale: 2", false, false, 1},
      {"jitter: 0.2"},
      {"capacity_factor: 0.5"},
      {"capacity_factor: 0.5 evaluation_capacity: 0.5"},
      {"capacity_factor: 0.5 group_sequences: 2"},
      {"capacity_factor: 0.7 normalize: false", false, false, 1},
      {"capacity_factor: 0.5 drop: weight", true, false},
      {"capacity_factor: 0.5 drop: weight evaluation_capacity: 0.5", true, true},
      {"capacity_factor: 0.7 normalize: false drop: weight", true, false, 1},
      {"kind: \"sigmoid_top_k\" groups: 3 group_top_k: 2 bias_rate: 0.01"},
      {"kind: \"sigmoid_top_k\" capacity_factor: 0.5"},
      {"kind: \"sigmoid_top_k\" capacity_factor: 0.5 drop: weight", true, false},
  };
}

RunConfig config_with(const Case& c) {
  RunConfig config = config_of(
      "run { seed: 2 } init { deviation: 0.3 } data { length: 24 global_batch: 2 } "
      "model { vocabulary: 30 width: 16 layers: 3 heads: 2 hidden: 12 experts: 3 router { " +
      c.router + " } }");
  config.mutable_model()->set_top_k(c.top_k);
  return config;
}

/// How many of the logits before a change differ in any bit.
Index changed_before(Rig& rig, Pass pass) {
  constexpr Index kLength = 24;
  Index changed = 0;
  for (const Index from : {5, 12, 20, 23}) {
    for (int sequence = 0; sequence < 2; ++sequence) {
      const Tokens before = batch_of(random_integers({2, kLength}, 1, 0, 30));
      const Tokens after = batch_of(random_integers({2, kLength}, 1, 0, 30));
      const Tensor others = random_integers({kLength}, static_cast<std::uint64_t>(from), 0, 30);
      for (Index at = from; at < kLength; ++at) {
        after.ids.data<std::int32_t>()[sequence * kLength + at] = others.data<std::int32_t>()[at];
      }
      const Tensor a = rig.logits(before, pass);
      const Tensor b = rig.logits(after, pass);
      Index moved = 0;
      for (Index at = 0; at < kLength; ++at) {
        const bool same = std::memcmp(a.row_range(sequence * kLength + at, 1).raw(), b.row_range(sequence * kLength + at, 1).raw(),
                                      a.row_range(0, 1).bytes()) == 0;
        (at < from ? changed : moved) += same ? 0 : 1;
      }
      EXPECT_GT(moved, 0) << "the change has no effect at all";
    }
  }
  return changed;
}

TEST(Causality, LaterTokensChangeNoBitUnlessTheListSaysSo) {
  omp_set_num_threads(1);  // many small passes
  std::set<std::string> kinds;
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.router);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Rig rig(config_with(c), dtype);
      kinds.insert(rig.config().model().router().kind());
      EXPECT_EQ(changed_before(rig, Pass::train) > 0, c.training_leaks) << "in training";
      EXPECT_EQ(changed_before(rig, Pass::evaluate) > 0, c.evaluation_leaks) << "in an evaluation";
    }
  }
  for (const RouterKind& kind : router_table()) EXPECT_TRUE(kinds.contains(std::string(kind.name))) << kind.name << " is in no case";
}

TEST(Causality, RoutersKnowWhetherTrainingLeaks) {
  for (const Case& c : cases()) {
    Rig rig(config_with(c));
    EXPECT_EQ(rig.model().sees_later_tokens, c.training_leaks) << c.router;
  }
}

}  // namespace
}  // namespace yard
