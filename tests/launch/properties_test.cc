#include <cmath>
#include <set>

#include "core/nn/kv_cache.h"
#include "launch/model_from_config.h"
#include "tests/support/cluster.h"
#include "tests/support/loops.h"

namespace yard {
namespace {

using namespace test;

constexpr const char* kBase =
    "run { seed: 4 } init { deviation: 0.2 } data { length: 10 global_batch: 4 } "
    "model { vocabulary: 23 width: 12 layers: 2 heads: 2 hidden: 8 experts: 4 top_k: 2 } ";

RunConfig with(const std::string& text, const std::string& more = "") {
  RunConfig config = config_of(kBase);
  config.MergeFrom(config_of(text));
  config.MergeFrom(config_of(more));
  return config;
}

Tokens some_batch(std::uint64_t seed = 1) {
  return batch_of(random_integers({4, 10}, seed, 0, 23), random_integers({4, 10}, seed + 50, 0, 23));
}

std::string moe(Index layer) { return "model.layers." + std::to_string(layer) + ".block_sparse_moe."; }

Tensor copied(const Tensor& tensor) {
  Tensor copy(cpu(), tensor.shape());
  std::copy(tensor.values<float>().begin(), tensor.values<float>().end(), copy.values<float>().begin());
  return copy;
}

TEST(Property, PermutingExpertsWithTheirRouterRowsLeavesTheLoss) {
  Rig rig(with(""));
  const auto before = rig.step(some_batch());
  const std::vector<Index> order = {2, 0, 3, 1};
  std::map<std::string, Tensor> old;
  for (const auto& [name, value] : rig.values()) old[name] = copied(value);
  for (Index layer = 0; layer < 2; ++layer) {
    Tensor gate = copied(old.at(moe(layer) + "gate.weight"));
    for (Index e = 0; e < 4; ++e) {
      const Index from = order[static_cast<std::size_t>(e)];
      for (Index c = 0; c < 12; ++c) gate.data<float>()[e * 12 + c] = old.at(moe(layer) + "gate.weight").data<float>()[from * 12 + c];
      for (const char* matrix : {"w1", "w2", "w3"}) {
        rig.set(moe(layer) + "experts." + std::to_string(e) + "." + matrix + ".weight",
                old.at(moe(layer) + "experts." + std::to_string(from) + "." + matrix + ".weight"));
      }
    }
    rig.set(moe(layer) + "gate.weight", gate);
  }
  const auto after = rig.step(some_batch());
  EXPECT_NEAR(after.nats, before.nats, 1e-6);
  expect_close(after.balance, before.balance, 1e-6, "balance");
  for (std::size_t e = 0; e < 4; ++e) EXPECT_EQ(after.counts[e], before.counts[static_cast<std::size_t>(order[e])]);
}

TEST(Property, IdenticalExpertsAreTheDenseModelAndShareItsGradient) {
  Rig dense(with("model { experts: 1 top_k: 1 }"));
  Rig sparse(with("losses { balance: 0 z: 0 }"));
  for (const auto& [name, value] : dense.values()) {
    const std::size_t mlp = name.find("mlp.");
    if (mlp == std::string::npos) {
      sparse.set(name, value);
      continue;
    }
    const std::string matrix = name.ends_with("gate_proj.weight") ? "w1" : name.ends_with("up_proj.weight") ? "w3" : "w2";
    for (int e = 0; e < 4; ++e) {
      sparse.set(name.substr(0, mlp) + "block_sparse_moe.experts." + std::to_string(e) + "." + matrix + ".weight", value);
    }
  }
  EXPECT_NEAR(sparse.step(some_batch()).nats, dense.step(some_batch()).nats, 1e-6);
  const auto gradients = sparse.gradients();
  for (const auto& [name, gradient] : dense.gradients()) {
    const std::size_t mlp = name.find("mlp.");
    if (mlp == std::string::npos) {
      expect_close(gradients.at(name), to_f64(gradient), 1e-5, name);
      continue;
    }
    const std::string matrix = name.ends_with("gate_proj.weight") ? "w1" : name.ends_with("up_proj.weight") ? "w3" : "w2";
    std::vector<double> sum(static_cast<std::size_t>(gradient.elements()), 0.0);
    for (int e = 0; e < 4; ++e) {
      const auto part =
          to_f64(gradients.at(name.substr(0, mlp) + "block_sparse_moe.experts." + std::to_string(e) + "." + matrix + ".weight"));
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
    }
    expect_close(sum, to_f64(gradient), 1e-5, "the sum over experts of " + name);
  }
}

TEST(Property, ChoosingAllExpertsIsSoftGating) {
  Rig rig(with("model { layers: 1 top_k: 4 }"));
  const ModelSettings model = model_from_config(rig.config());
  const Tokens tokens = some_batch();
  // y = sum over all experts of softmax(z)_e expert_e(x), by a loop that chooses nothing.
  Named<double> w;
  for (const auto& [name, value] : rig.values()) w[name] = to_f64(value);
  const auto rows_of = [](const Tensor& from) {
    std::vector<int> result;
    for (const double value : to_f64(from)) result.push_back(static_cast<int>(value));
    return result;
  };
  std::vector<double> x;
  for (const int id : rows_of(tokens.ids)) {
    for (std::size_t c = 0; c < 12; ++c) x.push_back(w.at("model.embed_tokens.weight")[static_cast<std::size_t>(id) * 12 + c]);
  }
  const std::string prefix = "model.layers.0.";
  const double epsilon = static_cast<double>(model.norm_epsilon);
  const auto attended = loops::attention(model.layer(0).attention, w, prefix + "self_attn.",
                                         loops::rms_norm(x, w.at(prefix + "input_layernorm.weight"), epsilon), rows_of(tokens.positions));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += attended[i];
  const auto normed = loops::rms_norm(x, w.at(prefix + "post_attention_layernorm.weight"), epsilon);
  const auto z = loops::product(normed, w.at(moe(0) + "gate.weight"), 12);
  for (std::size_t e = 0; e < 4; ++e) {
    const std::string expert = moe(0) + "experts." + std::to_string(e) + ".";
    const auto out =
        loops::feed_forward(model.layer(0).moe()->expert, w, {expert + "w1.weight", expert + "w3.weight", expert + "w2.weight"}, normed);
    for (std::size_t i = 0; i < x.size(); ++i) {
      double total = 0;
      for (std::size_t other = 0; other < 4; ++other) total += std::exp(z[i / 12 * 4 + other]);
      x[i] += std::exp(z[i / 12 * 4 + e]) / total * out[i];
    }
  }
  const auto logits = loops::product(loops::rms_norm(x, w.at("model.norm.weight"), epsilon), w.at("lm_head.weight"), 12);
  expect_close(rig.logits(tokens), logits, 1e-5, "logits");
}

TEST(Property, HalfTheMicroStepTwiceGivesTheSameGradient) {
  const std::string text = "losses { scope: sequence balance: 0.5 z: 0.3 } ";
  Rig whole(with(text));
  const Tokens tokens = some_batch();
  whole.step(tokens);
  Rig halves(with(text));
  halves.store().zero_gradients(cpu());
  for (Index half = 0; half < 2; ++half) {
    Tokens part = tokens;
    part.sequences = part.sequences_everywhere = 2;
    part.first_sequence = 2 * half;
    part.ids = tokens.ids.row_range(20 * half, 20);
    part.targets = tokens.targets.row_range(20 * half, 20);
    part.positions = tokens.positions.row_range(20 * half, 20);
    halves.micro_step(part, 1.0 / 40, half, 2);
  }
  for (const auto& [name, gradient] : whole.gradients()) expect_close(halves.gradients().at(name), to_f64(gradient), 1e-5, name);
}

TEST(Property, BalanceIsOneWhenTheRouterIsEven) {
  // Zero router matrices: every probability is 1 / E, and ties choose the lowest experts; P is even, so balance is 1 whatever the counts.
  for (int k = 1; k <= 4; ++k) {
    for (const char* scope : {"batch", "sequence"}) {
      RunConfig config = with(std::string("losses { scope: ") + scope + " }");
      config.mutable_model()->set_top_k(k);
      Rig rig(config);
      for (Index layer = 0; layer < 2; ++layer) rig.set(moe(layer) + "gate.weight", Tensor::zeros(cpu(), {4, 12}));
      const auto losses = rig.step(some_batch());
      for (const double balance : losses.balance) EXPECT_NEAR(balance, 1, 1e-6) << k << " " << scope;
      for (const double z : losses.z) EXPECT_NEAR(z, std::log(4.0) * std::log(4.0), 1e-5);
    }
  }
}

TEST(Property, OneBatchIsMemorised) {
  TrainerRig trainer(with("run { steps: 250 } data { order: sequential } losses { balance: 0.001 z: 0 } "
                          "optimizer { peak_rate: 0.02 warmup_steps: 5 schedule: constant decay: 0 }"),
                     std::make_shared<TokenStream>(
                         [] {
                           std::vector<std::int32_t> ids;
                           for (const double id : to_f64(random_integers({41}, 8, 0, 23))) ids.push_back(static_cast<std::int32_t>(id));
                           return ids;
                         }(),
                         "one batch"));
  EXPECT_EQ(trainer->loader().windows(), 4);
  const double first = trainer->step().loss;
  EXPECT_GT(first, 2.5);
  double loss = first;
  while (loss > 0.05 && trainer->steps_done() < 250) loss = trainer->step().loss;
  EXPECT_LT(loss, 0.05);
}

TEST(Property, Top1RouterLearnsFromTheLossAlone) {
  Rig rig(with("model { top_k: 1 } losses { balance: 0 z: 0 }"));
  EXPECT_FALSE(rig.config().model().router().normalize());
  rig.step(some_batch());
  for (Index layer = 0; layer < 2; ++layer) {
    double square = 0;
    double expert = 0;
    for (const double value : to_f64(rig.gradients().at(moe(layer) + "gate.weight"))) square += value * value;
    for (const double value : to_f64(rig.gradients().at(moe(layer) + "experts.0.w1.weight"))) expert += value * value;
    EXPECT_GT(std::sqrt(square), 1e-3 * std::sqrt(expert)) << "layer " << layer;
    EXPECT_GT(square, 0);
  }
}

TEST(Property, MaskedTargetsHaveNoGradient) {
  Rig rig(with("losses { balance: 0 z: 0 }"));
  Tokens tokens = some_batch();
  // Sequence 2 is masked and alone has id 22; the first half of sequence 0 is masked too.
  for (Index n = 0; n < 40; ++n) {
    auto& id = tokens.ids.data<std::int32_t>()[n];
    id = n / 10 == 2 ? 22 : std::min(id, 21);
    if (n / 10 == 2 || n < 5) tokens.targets.data<std::int32_t>()[n] = -1;
  }
  rig.step(tokens);
  const auto with_masked = rig.gradients();
  for (Index c = 0; c < 12; ++c) {
    EXPECT_EQ(with_masked.at("model.embed_tokens.weight").data<float>()[22 * 12 + c], 0) << "a masked sequence reaches its tokens";
    EXPECT_NE(with_masked.at("model.embed_tokens.weight").data<float>()[tokens.ids.data<std::int32_t>()[12] * 12 + c], 0);
  }
  // What stands in a masked row changes nothing either.
  std::map<std::string, std::vector<double>> before;
  for (const auto& [name, gradient] : with_masked) before[name] = to_f64(gradient);
  Tokens without = tokens;
  without.sequences = without.sequences_everywhere = 2;  // sequences 0 and 1 alone; the divisor stays
  without.ids = tokens.ids.row_range(0, 20);
  without.targets = tokens.targets.row_range(0, 20);
  without.positions = tokens.positions.row_range(0, 20);
  Tokens last = without;
  last.sequences = last.sequences_everywhere = 1;
  last.ids = tokens.ids.row_range(30, 10);
  last.targets = tokens.targets.row_range(30, 10);
  last.positions = tokens.positions.row_range(30, 10);
  rig.store().zero_gradients(cpu());
  const double scale = 1.0 / static_cast<double>(targets_of(tokens));
  EXPECT_EQ(targets_of(tokens), 25);
  rig.micro_step(without, scale, 0, 2);
  rig.micro_step(last, scale, 1, 2);
  for (const auto& [name, gradient] : rig.gradients()) expect_close(gradient, before.at(name), 1e-5, name);

  for (auto& target : tokens.targets.values<std::int32_t>()) target = -1;
  rig.store().zero_gradients(cpu());
  EXPECT_EQ(rig.micro_step(tokens, 1).nats, 0);
  for (const auto& [name, gradient] : rig.gradients()) {
    for (const double value : to_f64(gradient)) ASSERT_EQ(value, 0) << name;
  }
}

/// Noise, drops and counts included: what is computed again is what was computed before.
TEST(Property, RecomputingChangesNoBitAndCountsOnce) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::string extra :
         {"", "model { dropout: 0.2 expert_dropout: 0.1 dense_after: 5 router { jitter: 0.1 capacity_factor: 0.6 } }",
          "model { shared_experts: 1 shared_gate: true post_norms: true f32_residual: true }"}) {
      std::map<std::string, std::vector<double>> gradients;
      Rig::Losses losses;
      std::vector<double> drops;
      for (const char* recompute : {"none", "moe", "full"}) {
        Rig rig(with(std::string("model { recompute: ") + recompute + " }", extra), dtype);
        const auto now = rig.step(some_batch());
        std::map<std::string, std::vector<double>> mine;
        std::vector<double> dropped;
        for (const auto& [name, gradient] : rig.gradients()) mine[name] = to_f64(gradient);
        for (const auto& layer : now.routing.layers) {
          for (const auto& [name, mean] : layer.scalars) {
            dropped.insert(dropped.end(), mean.sums.begin(), mean.sums.end());
            dropped.insert(dropped.end(), mean.weights.begin(), mean.weights.end());
          }
        }
        if (gradients.empty()) {
          gradients = mine;
          losses = now;
          drops = dropped;
          continue;
        }
        EXPECT_EQ(now.nats, losses.nats);
        EXPECT_EQ(now.counts, losses.counts) << recompute;
        EXPECT_EQ(now.balance, losses.balance) << recompute;
        EXPECT_EQ(dropped, drops) << recompute;
        for (const auto& [name, values] : gradients) EXPECT_EQ(mine.at(name), values) << recompute << ": " << name << " " << name_of(dtype);
      }
    }
  }
}

/// Prompts pass at once, then tokens one by one: the logits of a pass over everything, for every row.
TEST(Property, CachedLogitsAreTheUncached) {
  for (const std::string extra : {"", "model { kv_heads: 1 shared_experts: 1 post_norms: true attention_cap: 3 }",
                                  "model { top_k: 1 router { capacity_factor: 0.5 jitter: 0.3 } }"}) {
    Rig rig(with(extra, "model { positions: 16 }"));
    const Tokens whole = some_batch();
    const auto expected = to_f64(rig.logits(whole));
    KeyValueCache cache = rig.model().transformer->make_cache(cpu(), 4, 16);
    for (Index at = 0; at < 10;) {
      const Index fresh = at == 0 ? 4 : 1;
      Tokens tokens;
      tokens.sequences = tokens.sequences_everywhere = 4;
      tokens.length = fresh;
      tokens.cache = &cache;
      tokens.ids = Tensor(cpu(), {4 * fresh}, DType::i32);
      tokens.positions = Tensor(cpu(), {4 * fresh}, DType::i32);
      std::vector<double> want;
      for (Index s = 0; s < 4; ++s) {
        cache.before().data<std::int32_t>()[s] = static_cast<std::int32_t>(at);
        for (Index r = 0; r < fresh; ++r) {
          tokens.ids.data<std::int32_t>()[s * fresh + r] = whole.ids.data<std::int32_t>()[s * 10 + at + r];
          tokens.positions.data<std::int32_t>()[s * fresh + r] = static_cast<std::int32_t>(at + r);
          const auto row = expected.begin() + (s * 10 + at + r) * 23;
          want.insert(want.end(), row, row + 23);
        }
      }
      expect_close(rig.logits(tokens), want, 1e-5, extra + " at " + std::to_string(at));
      at += fresh;
    }
  }
}

}  // namespace
}  // namespace yard
