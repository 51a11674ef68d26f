#include "tests/support/loops.h"

#include <cmath>

#include "core/random.h"
#include "launch/model_from_config.h"
#include "tests/support/rig.h"

namespace yard {
namespace {

using namespace test;

struct Case {
  std::string name, config;
  std::vector<int> positions = {};  // empty: each sequence counts from 0
};

/// Every setting of a model appears in some case, those that meet each other together.
std::vector<Case> cases() {
  return {
      {"Mixtral", "model { heads: 4 kv_heads: 2 experts: 4 top_k: 2 }"},
      {"Grok",
       "model { heads: 3 kv_heads: 1 experts: 4 top_k: 2 activation: gelu post_norms: true tied_output: true attention_cap: 2 "
       "embedding_scale: 3 output_scale: 0.5 router { normalize: false } } losses { scope: sequence }"},
      {"OpenMoE",
       "model { layers: 4 heads: 2 experts: 3 top_k: 2 moe_every: 2 first_dense_layers: 1 dense_hidden: 9 dense_after: 4 attention_scale: "
       "1 activation: gelu_tanh tied_output: true post_norms: true } init { deviation: 0.2 }"},
      {"Switch", "model { heads: 2 experts: 3 top_k: 1 gated: false activation: relu router { capacity_factor: 0.7 } }"},
      {"Qwen",
       "model { heads: 2 experts: 4 top_k: 2 shared_experts: 2 shared_gate: true router { scale: 1.7 } } losses { convention: huggingface "
       "}"},
      {"OLMoE", "model { heads: 4 kv_heads: 2 experts: 3 top_k: 2 qk_norm: width router { normalize: false } }"},
      {"shared without a gate", "model { heads: 2 experts: 3 top_k: 3 shared_hidden: 3 }"},
      {"dropping by weight", "model { heads: 2 experts: 3 top_k: 2 router { capacity_factor: 0.5 drop: weight group_sequences: 2 } }"},
      {"documents, jitter",
       "model { heads: 2 experts: 3 top_k: 2 router { jitter: 0.2 } }",
       {0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 0, 0, 1, 2, 3, 4}},
      {"dense", "model { heads: 4 kv_heads: 2 experts: 1 head_width: 4 dense_hidden: 5 }"},
  };
}

std::vector<int> whole(const Tensor& tensor) {
  std::vector<int> result;
  for (const double value : to_f64(tensor)) result.push_back(static_cast<int>(value));
  return result;
}

constexpr const char* kBase =
    "run { seed: 3 } init { deviation: 0.3 scale_residual: false } losses { balance: 0.2 z: 0.1 } "
    "data { length: 8 global_batch: 2 } model { vocabulary: 11 width: 6 layers: 2 hidden: 5 rope_base: 50 head_width: 4 positions: 8 } ";

loops::Routing told(const RunConfig& config) {
  loops::Routing how;
  const auto& router = config.model().router();
  how.normalize = router.normalize();
  how.scale = static_cast<double>(static_cast<float>(router.scale()));
  how.length = 8;
  how.group = 8 * static_cast<std::size_t>(router.group_sequences());
  how.by_weight = router.drop() == RunConfig::Drop::weight;
  if (router.has_capacity_factor() && router.capacity_factor() > 0) {
    const double even =
        static_cast<double>(how.group) * static_cast<double>(config.model().top_k()) / static_cast<double>(config.model().experts());
    how.capacity = std::max<std::size_t>(4, static_cast<std::size_t>(std::ceil(router.capacity_factor() * even)));
  }
  how.balance = static_cast<double>(static_cast<float>(config.losses().balance()));
  how.z = static_cast<double>(static_cast<float>(config.losses().z()));
  if (config.losses().scope() == RunConfig::Scope::sequence) how.form = loops::Routing::Form::sequence;
  if (config.losses().convention() == RunConfig::Convention::huggingface) how.form = loops::Routing::Form::huggingface;
  return how;
}

/// Of a whole model: twelve blocks, each behind two norms, enlarge the rounding of the first. Ops and modules keep 1e-5 by themselves.
constexpr double kGradients = 1e-4;

TEST(Model, IsTheLoopInEveryShape) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    RunConfig config = config_of(kBase);
    config.MergeFrom(config_of(c.config));
    const bool jitter = config.model().router().jitter() > 0;
    if (jitter) config.mutable_model()->set_layers(1);  // the loop below knows one layer's noise
    Rig rig(config);
    std::uint64_t seed = 0;
    for (const auto& [name, value] : rig.values()) {  // norms that start as ones would hide their gradients' scale
      if (value.shape().rank() != 1) continue;
      Tensor moved = random_tensor(value.shape(), ++seed, 0.2F);
      for (float& entry : moved.values<float>()) entry += 1;
      rig.set(name, moved);
    }
    Tokens tokens = batch_of(random_integers({2, 8}, 1, 0, 11), random_integers({2, 8}, 2, 0, 11));
    tokens.targets.data<std::int32_t>()[5] = -1;
    if (!c.positions.empty()) tokens.positions = tensor_of({16}, c.positions);

    const ModelSettings model = model_from_config(rig.config());
    loops::Routing how = told(rig.config());
    if (jitter) {
      const double eps = config.model().router().jitter();
      for (std::uint64_t n = 0; n < 16; ++n) {
        const Random random(key_of(key_of(3, key_of("jitter"), 0, 0), n));
        for (std::uint64_t i = 0; i < 6; ++i) how.noise.push_back(1 - eps + 2 * eps * static_cast<double>(random.uniform(i)));
      }
    }
    const auto loss = [&]<class S>(const Named<S>& w) {
      loops::Auxiliary<S> aux;
      const auto logits = loops::transformer(model, how, w, whole(tokens.ids), whole(tokens.positions), aux);
      return loops::cross_entropy(logits, whole(tokens.targets)) + aux.loss;
    };
    Named<double> at;
    for (const auto& [name, value] : rig.values()) at[name] = to_f64(value);
    const Differentiated exact = differentiate(at, loss);

    loops::Auxiliary<double> aux;
    const auto logits = loops::transformer(model, how, at, whole(tokens.ids), whole(tokens.positions), aux);
    if (!jitter && how.capacity == 0) expect_close(rig.logits(tokens), logits, 1e-5, "logits of an evaluation");
    const auto losses = rig.step(tokens);
    expect_close(rig.logits(tokens, Pass::train), logits, 1e-5, "logits of training");
    EXPECT_NEAR(losses.nats, loops::cross_entropy(logits, whole(tokens.targets)), 1e-5);
    expect_close(losses.balance, aux.balance, 1e-5, "balance");
    expect_close(losses.z, aux.z, 1e-5, "z");
    if (how.capacity > 0) {
      EXPECT_GT(aux.dropped, 0U) << "the case drops nothing";
    }
    for (const auto& [name, gradient] : rig.gradients()) expect_close(gradient, exact.gradients.at(name), kGradients, name);

    // The loop itself, for one matrix of each kind.
    for (const auto& [name, values] : at) {
      if (values.size() > 40 || name.find("layers.1") == std::string::npos) continue;
      const auto value = [&](const std::vector<double>& moved) {
        Named<double> there = at;
        there[name] = moved;
        return loss(there);
      };
      expect_close(exact.gradients.at(name), numeric_gradient(value, values), 1e-7, "central differences of " + name);
    }
  }
}

}  // namespace
}  // namespace yard
