#include <cmath>

#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "core/ops/adamw.h"
#include "core/ops/elementwise.h"
#include "launch/generator.h"
#include "launch/model_from_config.h"
#include "launch/schedule.h"
#include "parallel/checkpoint/hugging_face.h"
#include "parallel/gradients.h"
#include "parallel/sharded_adamw.h"
#include "tests/support/loops.h"
#include "tests/support/rig.h"

namespace yard {
namespace {

using namespace test;
using Values = std::vector<double>;

/// What transformers or PyTorch computed (tests/fixtures/README.md).
class Fixture {
 public:
  explicit Fixture(const std::string& name) : file_(std::string(YARD_FIXTURES) + "/" + name + ".safetensors") {}
  Tensor read(const std::string& name, DType dtype = DType::f32) const { return file_.read(cpu(), name, dtype); }
  Values numbers(const std::string& name) const { return to_f64(read(name, DType::f64)); }
  double number(const std::string& name) const { return numbers(name).at(0); }
  nlohmann::json json(const std::string& key) const { return parse_json(file_.metadata().at(key)); }
  /// Names of the tensors that begin with `prefix`, without it.
  std::vector<std::string> names(const std::string& prefix) const {
    std::vector<std::string> result;
    for (const auto& entry : file_.entries()) {
      if (entry.name.starts_with(prefix)) result.push_back(entry.name.substr(prefix.size()));
    }
    return result;
  }
  /// Every tensor of the model itself.
  std::vector<std::string> weights() const {
    auto result = names("model.");
    for (auto& name : result) name = "model." + name;
    if (file_.has("lm_head.weight")) result.emplace_back("lm_head.weight");
    return result;
  }
  Tokens batch(const std::string& targets = "targets") const {
    return batch_of(read("input_ids", DType::i64), file_.has(targets) ? read(targets, DType::i64) : Tensor());
  }

 private:
  SafetensorsReader file_;
};

/// config.json's names in ours.
RunConfig config_from(const nlohmann::json& hub) {
  RunConfig config = config_of("losses { balance: 0 z: 0 } data { length: 1 global_batch: 1 }");
  auto& model = *config.mutable_model();
  model.set_vocabulary(hub.at("vocab_size"));
  model.set_width(hub.at("hidden_size"));
  model.set_layers(hub.at("num_hidden_layers"));
  model.set_heads(hub.at("num_attention_heads"));
  model.set_kv_heads(hub.at("num_key_value_heads"));
  model.set_head_width(hub.value("head_dim", model.width() / model.heads()));
  model.set_hidden(hub.at("intermediate_size"));
  model.set_positions(hub.at("max_position_embeddings"));
  model.set_rope_base(hub.at("rope_theta"));
  model.set_norm_epsilon(hub.at("rms_norm_eps"));
  model.set_tied_output(hub.at("tie_word_embeddings"));
  model.set_experts(hub.value("num_local_experts", hub.value("num_experts", 1)));
  model.set_top_k(hub.value("num_experts_per_tok", 1));
  if (hub.at("model_type") == "olmoe") {
    model.set_qk_norm(RunConfig::QkNorm::width);
    model.mutable_router()->set_normalize(hub.at("norm_topk_prob"));
  }
  return config;
}

/// Our names of the rig's tensors by those of the fixture's family.
std::map<std::string, std::string> our_names(Rig& rig, const Fixture& fixture) {
  const NameTable table = names_of_family(fixture.json("config").at("model_type"));
  std::map<std::string, std::string> names;
  for (const auto& [name, value] : rig.values()) names[table.stored(name)] = name;
  return names;
}

void load(Rig& rig, const Fixture& weights) {
  const auto names = weights.weights();
  const auto ours = our_names(rig, weights);
  ASSERT_EQ(names.size(), ours.size()) << "a parameter too many or too few";
  for (const auto& name : names) rig.set(ours.at(name), weights.read(name));
}

/// Every gradient that the fixture has under the prefix, within `bound` of its largest value.
void expect_gradients(Rig& rig, const Fixture& fixture, const std::string& prefix, std::size_t at_least, double bound = 1e-4) {
  const auto gradients = rig.gradients();
  const auto ours = our_names(rig, fixture);
  const auto names = fixture.names(prefix);
  EXPECT_GE(names.size(), at_least) << prefix;
  for (const auto& name : names) {
    ASSERT_TRUE(ours.contains(name)) << name;
    expect_close(gradients.at(ours.at(name)), fixture.numbers(prefix + name), bound, prefix + name);
  }
}

/// The relative error that a family's fixture may have.
double bound_of(const std::string& fixture) { return fixture.starts_with("olmoe") ? 1e-5 : 1e-4; }

class Transformers : public testing::TestWithParam<const char*> {};

TEST_P(Transformers, LogitsLossAndEveryGradientAreTheirs) {
  const Fixture fixture(GetParam());
  const double bound = bound_of(GetParam());
  Rig rig(config_from(fixture.json("config")));
  load(rig, fixture);
  const Tokens tokens = fixture.batch();
  expect_close(rig.logits(tokens), fixture.numbers("logits"), bound, "logits");
  const auto losses = rig.step(tokens);
  EXPECT_NEAR(losses.nats, fixture.number("loss"), bound * fixture.number("loss"));
  expect_gradients(rig, fixture, "grad.", rig.gradients().size(), bound);
  if (rig.config().model().experts() == 1) return;

  EXPECT_EQ(losses.counts, fixture.numbers("counts"));
  // load_balancing_loss_func pools the rows of all layers, at coefficient 1: the loops have its gradient in their loss, and their parts
  // here.
  const ModelSettings model = model_from_config(rig.config());
  loops::Routing how;
  how.normalize = rig.config().model().router().normalize();
  how.length = how.group = static_cast<std::size_t>(tokens.length);
  Named<double> values;
  for (const auto& [name, value] : rig.values()) values[name] = to_f64(value);
  const auto whole = [](const Tensor& tensor) {
    const auto entries = tensor.values<std::int32_t>();
    return std::vector<int>(entries.begin(), entries.end());
  };
  loops::Auxiliary<double> aux;
  loops::transformer(model, how, values, whole(tokens.ids), whole(tokens.positions), aux);
  expect_close(losses.balance, aux.balance, 1e-5, "balance of each layer");
  const auto experts = static_cast<std::size_t>(rig.config().model().experts());
  const double rows = static_cast<double>(aux.counts.size()) * static_cast<double>(tokens.rows());
  double pooled = 0;
  for (std::size_t e = 0; e < experts; ++e) {
    double chosen = 0;
    double probability = 0;
    for (std::size_t layer = 0; layer < aux.counts.size(); ++layer) {
      chosen += losses.counts[layer * experts + e];
      probability += aux.probability[layer][e];
    }
    pooled += static_cast<double>(experts) * (chosen / rows) * (probability / rows);
  }
  EXPECT_NEAR(pooled, fixture.number("aux_loss"), bound * fixture.number("aux_loss"));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Transformers,
                         testing::Values("mixtral_tiny", "mixtral_tied_gqa", "llama_tiny", "olmoe_tiny", "olmoe_grouped"),
                         [](const auto& test) { return std::string(test.param); });

class BalanceLoss : public testing::TestWithParam<const char*> {};

TEST_P(BalanceLoss, OfTransformersHasTheirGradient) {
  const Fixture fixture(GetParam());
  RunConfig config = config_from(fixture.json("config"));
  config.mutable_losses()->set_balance(fixture.json("config").at("router_aux_loss_coef"));
  config.mutable_losses()->set_convention(RunConfig::Convention::huggingface);
  Rig rig(config);
  load(rig, fixture);
  rig.step(fixture.batch());
  expect_gradients(rig, fixture, "grad_aux.", rig.gradients().size(), bound_of(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, BalanceLoss, testing::Values("mixtral_tiny", "olmoe_tiny", "olmoe_grouped"),
                         [](const auto& test) { return std::string(test.param); });

/// Through the cache, as `switchyard generate` does.
TEST(Olmoe, GreedyTokensAreTheirs) {
  for (const char* name : {"olmoe_tiny", "olmoe_grouped"}) {
    const Fixture fixture(name);
    Rig rig(config_from(fixture.json("config")));
    load(rig, fixture);
    Rank rank;
    Generator generator(rank.runtime, *rig.model().transformer, {0, 1, 1}, {}, {});
    const Tensor prompts = fixture.read("greedy_prompts", DType::i64);
    const Tensor expected = fixture.read("greedy", DType::i64);
    std::vector<Line> lines;
    for (Index row = 0; row < prompts.rows(); ++row) {
      const auto ids = prompts.row_range(row, 1).values<std::int64_t>();
      lines.push_back({static_cast<std::size_t>(row), {ids.begin(), ids.end()}, true});
    }
    generator.run(lines, prompts.cols(), expected.cols());
    for (Index row = 0; row < prompts.rows(); ++row) {
      const auto& ids = lines[static_cast<std::size_t>(row)].ids;
      const auto theirs = expected.row_range(row, 1).values<std::int64_t>();
      EXPECT_TRUE(std::equal(ids.begin() + prompts.cols(), ids.end(), theirs.begin(), theirs.end())) << name << ", prompt " << row;
    }
  }
}

TEST(Mixtral, MaskedTargetsHaveNoLossAndNoGradient) {
  const Fixture fixture("mixtral_tiny");
  Rig rig(config_from(fixture.json("config")));
  load(rig, fixture);
  const Tokens tokens = fixture.batch("targets_masked");
  EXPECT_EQ(targets_of(tokens), 33);
  EXPECT_NEAR(rig.step(tokens).nats, fixture.number("loss_masked"), 1e-4 * fixture.number("loss_masked"));
  expect_gradients(rig, fixture, "grad_masked.", 3);
}

void expect_megatron(bool by_sequence) {
  const Fixture fixture("mixtral_tiny");
  RunConfig config = config_from(fixture.json("config"));
  config.mutable_losses()->set_balance(fixture.json("balance_coefficient").get<double>());
  config.mutable_losses()->set_z(fixture.json("z_coefficient").get<double>());
  if (by_sequence) config.mutable_losses()->set_scope(RunConfig::Scope::sequence);
  Rig rig(config);
  load(rig, fixture);
  const auto losses = rig.step(fixture.batch());
  expect_close(losses.balance, fixture.numbers(by_sequence ? "balance_sequence" : "balance_batch"), 1e-5, "balance");
  expect_close(losses.z, fixture.numbers("z"), 1e-5, "z");
  expect_gradients(rig, fixture, by_sequence ? "grad_sequence." : "grad_megatron.", 4);
}

TEST(Mixtral, TheBatchBalanceLossAndZLossAreMegatrons) { expect_megatron(false); }
TEST(Mixtral, TheSequenceBalanceLossAndZLossAreMegatrons) { expect_megatron(true); }

class Rounded : public testing::TestWithParam<const char*> {};

TEST_P(Rounded, Bf16IsNoWorseThanTransformers) {
  const Fixture fixture(GetParam());
  Rig rig(config_from(fixture.json("config")), DType::bf16);
  load(rig, fixture);
  const double error = relative_error(to_f64(rig.logits(fixture.batch())), fixture.numbers("logits"));
  RecordProperty("relative_error", std::to_string(error));
  EXPECT_LE(error, 1.2 * fixture.number("bf16_relative_error"));
  EXPECT_GT(error, 0.1 * fixture.number("bf16_relative_error")) << "this was hardly computed in bf16";
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Rounded, testing::Values("mixtral_tiny", "bf16", "olmoe_tiny"),
                         [](const auto& test) { return std::string(test.param); });

void expect_ten_steps(const char* from, const char* steps) {
  const Fixture start(from);
  const Fixture fixture(steps);
  const auto words = fixture.json("optimizer");
  RunConfig config = config_from(fixture.json("config"));
  config.mutable_run()->set_steps(words.at("steps"));
  config.mutable_losses()->set_balance(fixture.json("balance_coefficient").get<double>());
  auto& optimizer = *config.mutable_optimizer();
  optimizer.set_peak_rate(words.at("peak_rate"));
  optimizer.set_final_rate(words.at("final_rate"));
  optimizer.set_warmup_steps(words.at("warmup_steps"));
  Rig rig(config);
  GradientReducer reducer(rig.store(), rig.mesh());
  ShardedAdamW::Settings settings;
  settings.beta1 = words.at("beta1");
  settings.beta2 = words.at("beta2");
  settings.epsilon = words.at("epsilon");
  settings.decay = words.at("decay");
  ShardedAdamW adamw(cpu(), rig.store(), rig.mesh(), reducer, settings, 1);
  load(rig, start);

  Values losses;
  Values norms;
  Values rates;
  Values balance;
  for (Index step = 0; step < 10; ++step) {
    const auto of_step = [&](const char* name) {
      const Tensor all = fixture.read(name, DType::i64);
      return all.row_range(step, 1).reshaped({all.shape()[1], all.shape()[2]});
    };
    const Tokens tokens = batch_of(of_step("batches"), of_step("batch_targets"));
    const auto done = rig.step(tokens);
    Context context = rig.context(tokens);
    reducer.finish(context);
    const double norm = reducer.norms(context).all;
    const double rate = learning_rate(rig.config(), step);
    const double clip = std::min(1.0, words.at("clip").get<double>() / (norm + 1e-6));
    adamw.step(context, {static_cast<float>(rate), step + 1, static_cast<float>(clip)});
    losses.push_back(done.nats);
    norms.push_back(norm);
    rates.push_back(rate);
    balance.insert(balance.end(), done.balance.begin(), done.balance.end());
  }
  expect_close(losses, fixture.numbers("losses"), 1e-5, "losses");
  expect_close(norms, fixture.numbers("grad_norms"), 1e-5, "norms");
  expect_close(rates, fixture.numbers("rates"), 1e-6, "rates");
  expect_close(balance, fixture.numbers("balance"), 1e-5, "balance losses");
  const auto values = rig.values();
  const auto ours = our_names(rig, start);
  const auto names = fixture.names("final.");
  EXPECT_EQ(names.size(), values.size());
  for (const auto& name : names) {
    const Values before = start.numbers(name);
    Values update = to_f64(values.at(ours.at(name)));
    Values theirs = fixture.numbers("final." + name);
    for (std::size_t i = 0; i < before.size(); ++i) {
      update[i] -= before[i];
      theirs[i] -= before[i];
    }
    EXPECT_LE(relative_error(update, theirs), 1e-3) << name;
  }
}

TEST(AdamW, TenStepsArePyTorchs) { expect_ten_steps("mixtral_tiny", "adamw_ten_steps"); }
TEST(AdamW, TenStepsOfOlmoeArePyTorchs) { expect_ten_steps("olmoe_tiny", "olmoe_ten_steps"); }

TEST(AdamW, AloneIsPyTorchs) {
  const Fixture fixture("adamw_only");
  const auto words = fixture.json("optimizer");
  for (const bool decay : {true, false}) {
    const Tensor value = fixture.read("parameters");
    const Tensor first = Tensor::zeros(cpu(), value.shape());
    const Tensor second = Tensor::zeros(cpu(), value.shape());
    const Tensor gradients = fixture.read("gradients");
    for (Index step = 0; step < gradients.length(); ++step) {
      ops::AdamWSettings settings;
      settings.rate = static_cast<float>(fixture.numbers("rates").at(static_cast<std::size_t>(step)));
      settings.beta1 = words.at("beta1");
      settings.beta2 = words.at("beta2");
      settings.epsilon = words.at("epsilon");
      settings.decay = decay ? words.at("decay").get<float>() : 0;
      settings.grad_scale = 1;
      settings.t = step + 1;
      ops::adamw(cpu(), gradients.row_range(step, 1).reshaped(value.shape()), first, second, value, value, settings);
    }
    const Values expected = fixture.numbers(decay ? "final_decay" : "final_no_decay");
    const Values actual = to_f64(value);
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-6 * std::max(1.0, std::abs(expected[i]))) << i;
    if (!decay) continue;
    expect_close(first, fixture.numbers("exp_avg"), 1e-6, "first moments");
    expect_close(second, fixture.numbers("exp_avg_sq"), 1e-6, "second moments");
  }
}

}  // namespace
}  // namespace yard
