#include "core/nn/flops.h"

#include <gtest/gtest.h>

namespace yard {
namespace {

ModelShape base() {
  ModelShape model;
  model.vocabulary = 1000;
  model.width = 64;
  model.layers = 3;
  model.heads = 4;
  model.kv_heads = 2;
  model.head_width = 16;
  model.experts = 8;
  model.top_k = 2;
  model.hidden = 96;
  model.dense_hidden = 128;
  return model;
}

/// Multiply-adds of one token, every product written out, twice for the operations and three times for forward and both gradients. A row in
/// a causal sequence meets half of the sequence on average.
double listed(const ModelShape& m, double length) {
  const auto d = [](Index value) { return static_cast<double>(value); };
  double products = d(m.vocabulary) * d(m.width);
  for (Index layer = 0; layer < m.layers; ++layer) {
    const double q = d(m.width) * d(m.heads) * d(m.head_width);
    const double kv = d(m.width) * d(m.kv_heads) * d(m.head_width);
    products += q + kv + kv + q;                                // q, k, v, o
    products += 2 * length / 2 * d(m.heads) * d(m.head_width);  // scores, and the mix of values
    const auto feed_forward = [&](Index inner) { return (m.gated ? 3 : 2) * d(m.width) * d(inner); };
    const bool moe = m.experts > 1 && layer >= m.first_dense_layers && (layer + 1) % m.moe_every == 0;
    if (!moe) {
      products += feed_forward(m.experts == 1 ? m.hidden : m.dense_hidden);
      continue;
    }
    for (Index k = 0; k < m.top_k; ++k) products += feed_forward(m.hidden);
    if (m.shared_hidden > 0) products += feed_forward(m.shared_hidden);
    if (m.dense_after > 0) products += feed_forward(m.dense_after);
  }
  return 6 * products;
}

TEST(Flops, AreThoseOfEveryProduct) {
  ModelShape model = base();
  EXPECT_DOUBLE_EQ(training_flops_per_token(model, 128), listed(model, 128));
  model.gated = false;
  model.moe_every = 2;
  model.dense_after = 40;
  EXPECT_DOUBLE_EQ(training_flops_per_token(model, 77), listed(model, 77));
  model.first_dense_layers = 1;
  model.moe_every = 1;
  model.shared_hidden = 50;
  EXPECT_DOUBLE_EQ(training_flops_per_token(model, 1), listed(model, 1));
  model.experts = 1;
  model.top_k = 1;
  EXPECT_DOUBLE_EQ(training_flops_per_token(model, 256), listed(model, 256));
}

TEST(Flops, AreMegatronsFormulaForMixtral) {
  // 3 x (6 T H F K + 4 T H^2 (1 + g/n) p + 2 T^2 H p + 2 T H V) over T, with p = 1 here.
  const ModelShape model = base();
  const double h = 64;
  const double t = 128;
  const double layer = 6 * h * 96 * 2 + 4 * h * h * (1 + 0.5) + 2 * t * h;
  EXPECT_DOUBLE_EQ(training_flops_per_token(model, 128), 3 * (3 * layer + 2 * h * 1000));
}

TEST(Flops, ATiedOutputAndIdleExpertsChangeNothing) {
  ModelShape model = base();
  const double flops = training_flops_per_token(model, 64);
  model.tied_output = true;
  model.experts = 64;
  EXPECT_DOUBLE_EQ(training_flops_per_token(model, 64), flops);
}

}  // namespace
}  // namespace yard
