#include <omp.h>

#include <filesystem>

#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "core/nn/routing/choice.h"
#include "core/ops/auxiliary.h"
#include "launch/config_reader.h"
#include "launch/config_rules.h"
#include "launch/memory_table.h"
#include "launch/metrics_log.h"
#include "launch/step_metrics.h"
#include "launch/tensorboard.h"
#include "parallel/checkpoint/reader.h"
#include "tests/support/cluster.h"

namespace yard {
namespace {

using namespace test;

constexpr Index kVocabulary = 20;

/// A router that uses everything a router may use, and that only this file knows. Its first choice is from a table of its own by token id,
/// its second one depends on the position, the sequence's number and the step; the first token of a sequence has one choice. It learns a
/// weight for each expert. It counts tokens over ranks (a state), and reports a loss, a mean and a row of its own.
class ByIdAndPlace final : public Router {
 public:
  explicit ByIdAndPlace(const RouterParts& parts)
      : place_(parts.place),
        everywhere_(parts.everywhere),
        weight_(Parameter::vector(place_.name + "weight", place_.experts, Init::ones())),
        table_{place_.name + "table", Tensor(parts.stream, {place_.vocabulary}, DType::i32)},
        used_{place_.name + "used", Tensor::zeros(parts.stream, {place_.experts})},
        ids_(parts.report.loss("mean_id")),
        first_(parts.report.scalar("first_tokens")),
        usage_(parts.report.per_expert_replicated("used", place_.experts)) {
    for (Index id = 0; id < place_.vocabulary; ++id)
      table_.value.data<std::int32_t>()[id] = static_cast<std::int32_t>((id * 7 + static_cast<Index>(place_.seed)) % place_.experts);
  }

  Routing forward(Context& context, const Tensor& x, Tape& tape) override {
    const Tokens& tokens = context.tokens;
    Tensor choice(context.stream, {x.rows(), 2}, DType::i32);
    for (Index n = 0; n < x.rows(); ++n) {
      const Index sequence = tokens.first_sequence + n / tokens.length;  // its number everywhere
      const std::int32_t id = tokens.ids.data<std::int32_t>()[n];
      const Index first = table_.value.data<std::int32_t>()[std::max(0, id)];
      const Index step = 1 + (tokens.positions.data<std::int32_t>()[n] + sequence + context.step) % (place_.experts - 1);
      choice.data<std::int32_t>()[2 * n] = static_cast<std::int32_t>(first);
      choice.data<std::int32_t>()[2 * n + 1] = n % tokens.length == 0 ? -1 : static_cast<std::int32_t>((first + step) % place_.experts);
    }
    const Choices choices = accept_choices(context, place_, choice);
    Routing routing;
    routing.token = tokens_of_slots(context.stream, x.rows(), 2);
    routing.expert = choices.expert.reshaped({2 * x.rows()});
    routing.weight = Tensor::zeros(context.stream, {2 * x.rows()});
    for (Index slot = 0; slot < routing.expert.elements(); ++slot) {
      const std::int32_t expert = routing.expert.data<std::int32_t>()[slot];
      if (expert >= 0) routing.weight.data<float>()[slot] = weight_.value.data<float>()[expert];
    }
    if (context.pass == Pass::train) {
      for (Index n = 0; n < x.rows(); ++n) {
        ids_.values().data<double>()[0] +=
            tokens.ids.data<std::int32_t>()[n] / static_cast<double>(tokens.length * tokens.sequences_everywhere);
        first_.values().data<double>()[0] += n % tokens.length == 0 ? 1 : 0;
        first_.values().data<double>()[1] += 1;
      }
      if (context.micro == 0) ops::add_to_report(context.stream, used_.value, usage_.values());
      tokens_ += x.rows();
    }
    if (context.training()) tape.push(Saved{routing.expert});
    return routing;
  }

  Tensor backward(Context& context, const Tensor& dweight, const Tensor& dy, Tape& tape) override {
    const auto saved = tape.pop<Saved>();
    for (Index slot = 0; slot < dweight.elements(); ++slot) {
      const auto expert = saved.expert.data<std::int32_t>()[slot];
      if (expert >= 0) weight_.grad.data<float>()[expert] += dweight.data<float>()[slot];
    }
    return Tensor::zeros(context.stream, dy.shape());
  }

  /// Adds the step's counts to `used`, which every rank has; the tokens of all ranks must be those that were counted.
  void after_step(Context& context, bool skipped) override {
    const Tensor own = Tensor::zeros(context.stream, {1}, DType::i64);
    own.data<std::int64_t>()[0] = std::exchange(tokens_, 0);
    const Tensor all(context.stream, {everywhere_.ranks}, DType::i64);
    everywhere_.gather(context, own, all).wait(context.stream);
    Index gathered = 0;
    for (const std::int64_t tokens : all.values<std::int64_t>()) gathered += tokens;
    const Index mine = own.data<std::int64_t>()[0];
    check(all.values<std::int64_t>()[static_cast<std::size_t>(everywhere_.rank)] == mine, "the gathered tensors are not in rank order");
    everywhere_.sum(context, own).wait(context.stream);
    check(own.data<std::int64_t>()[0] == gathered, "the sum over ranks is not that of what was gathered");
    if (skipped) return;
    const Tensor counts = context.totals->step_layer(place_.moe_layer);
    for (Index e = 0; e < place_.experts; ++e)
      used_.value.data<float>()[e] += static_cast<float>(counts.data<std::int64_t>()[e]) / static_cast<float>(gathered);
  }

  void visit(const std::function<void(Parameter&)>& visitor) override { visitor(weight_); }
  void visit_state(const std::function<void(State&)>& visitor) override {
    visitor(table_);
    visitor(used_);
  }
  RouterCost cost() const override { return {2, place_.experts, {}, 4 * (place_.vocabulary + place_.experts), 2 * (4 + 4)}; }

 private:
  struct Saved {
    Tensor expert;
  };
  RouterPlace place_;
  Everywhere everywhere_;
  Parameter weight_;
  State table_, used_;
  Reported ids_, first_, usage_;
  Index tokens_ = 0;  // of this step on this rank
};

RouterTable with_one_more() {
  RouterTable routers = router_table();
  const auto rules = [](Settings& settings, const RouterFacts& facts) {
    settings.fill("max_experts", facts.top_k);
    check_input(facts.top_k == 2, "the router by_id_and_place chooses two experts, but model.top_k is ", facts.top_k);
  };
  routers.push_back({"by_id_and_place", {"threshold", "max_experts"}, rules, [](const RouterParts& parts) {
                       return std::make_unique<ByIdAndPlace>(parts);
                     }});
  return routers;
}

constexpr const char* kConfig =
    "run { seed: 5 steps: 30 } init { deviation: 0.1 } optimizer { warmup_steps: 2 peak_rate: 0.02 schedule: constant } "
    "data { length: 10 global_batch: 4 } "
    "model { vocabulary: 20 width: 12 layers: 2 heads: 2 experts: 4 top_k: 2 hidden: 10 router { kind: \"by_id_and_place\" } }";

TEST(RouterTable, TakesARouterThatNothingElseKnows) {
  omp_set_num_threads(1);  // many small steps
  const auto data = small_text(3000, kVocabulary);
  TrainerRig trainer(config_of(kConfig), data, with_one_more());
  const StepReport first = trainer->step();
  for (const auto& layer : first.tokens_per_expert) {
    Index slots = 0;
    for (const Index count : layer) slots += count;
    EXPECT_EQ(slots, 4 * (10 * 2 - 1)) << "two experts per token, one for the first of each sequence";
  }
  EXPECT_GT(first.norms.dense, 0);
  StepReport last = first;
  while (last.step < 30) last = trainer->step();
  EXPECT_LT(last.loss, first.loss - 0.3);
  for (const auto& [name, values] : trainer.values()) {
    if (name.find("block_sparse_moe.weight") == std::string::npos) continue;
    for (const double value : values) EXPECT_NE(value, 1) << "the router's own parameter learns";
  }
}

/// What each rank reports after some steps, saved as a checkpoint; from the start, or from another checkpoint.
struct Trained {
  StepReport last;
  nlohmann::json line;
  std::vector<Scalar> events;
  std::string checkpoint;
};
Trained train_on(MeshShape shape, const RunConfig& config, Index steps, const std::string& folder, const std::string& from = "") {
  const auto data = small_text(3000, kVocabulary);
  Trained trained;
  run_local_world(shape.ranks(), [&](Communicator& world) {
    omp_set_num_threads(1);
    const bool root = world.rank() == 0;
    TrainerRig trainer(world, config, data, shape, with_one_more());
    if (!from.empty()) trainer->resume(from);
    StepReport report;
    for (Index step = 0; step < steps; ++step) report = trainer->step();
    const StepMetrics metrics = trainer.metrics(report);
    CheckpointWriter writer(writer_settings(folder, config, with_one_more()));
    trainer->save(writer);
    trainer->finish(writer);
    if (root) trained = {report, parse_json(metrics_line(metrics)), scalars_of(metrics), writer.newest()};
  });
  return trained;
}

std::vector<double> saved(const std::string& checkpoint, const std::string& name) {
  for (const auto& entry : std::filesystem::directory_iterator(checkpoint)) {
    if (!entry.path().filename().string().starts_with("model-")) continue;
    const SafetensorsReader reader(entry.path().string());
    for (const auto& tensor : reader.entries()) {
      if (tensor.name == name) return to_f64(reader.read(cpu(), name, tensor.dtype == "I32" ? DType::i32 : DType::f32));
    }
  }
  ADD_FAILURE() << name << " is not in " << checkpoint;
  return {};
}

TEST(RouterTable, ItsRouterTrainsAlikeOnEveryLayoutAndReports) {
  std::vector<Trained> runs;
  for (const MeshShape shape : {MeshShape{1, 1}, MeshShape{2, 1}, MeshShape{2, 2}}) {
    const TemporaryFolder folder;
    runs.push_back(train_on(shape, config_of(kConfig), 3, folder.path()));
    const Trained& run = runs.back();
    EXPECT_NEAR(run.last.loss, runs[0].last.loss, 1e-5);
    EXPECT_NEAR(run.line["losses"]["mean_id"].get<double>(), runs[0].line["losses"]["mean_id"].get<double>(), 1e-12);
    EXPECT_GT(run.line["losses"]["mean_id"], 1);
    EXPECT_EQ(run.line["scalars"]["first_tokens"], 0.1);
    EXPECT_FALSE(run.line.contains("balance_loss")) << "it has none";
    EXPECT_FALSE(run.line.contains("dropped_fraction"));
    ASSERT_EQ(run.line["layers"].size(), 2U);
    EXPECT_EQ(run.line["layers"][1]["scalars"]["first_tokens"], 0.1);
    // `used` as of two steps, once for all ranks.
    double used = 0;
    for (const auto& value : run.line["layers"][0]["per_expert"]["used"]["values"]) used += value.get<double>();
    EXPECT_NEAR(used, 2 * (2 - 0.1), 1e-5);
    bool in_events = false;
    for (const Scalar& scalar : run.events) in_events = in_events || scalar.first == "losses/mean_id";
    EXPECT_TRUE(in_events);

    double saved_use = 0;
    for (const double value : saved(run.checkpoint, "model.layers.0.block_sparse_moe.used")) saved_use += value;
    EXPECT_NEAR(saved_use, 3 * (2 - 0.1), 1e-5);
    const auto table = saved(run.checkpoint, "model.layers.1.block_sparse_moe.table");
    ASSERT_EQ(table.size(), static_cast<std::size_t>(kVocabulary));
    EXPECT_EQ(table[3], (3 * 7 + 5) % 4);
  }
}

TEST(RouterTable, ItsStateResumesInAnotherLayout) {
  const TemporaryFolder whole;
  const Trained straight = train_on({1, 1}, config_of(kConfig), 5, whole.path());
  const TemporaryFolder one;
  const TemporaryFolder other;
  const Trained first = train_on({2, 2}, config_of(kConfig), 3, one.path());
  // Another seed of initial values gives another table: what is used must be what was saved.
  RunConfig other_start = config_of(kConfig);
  other_start.mutable_init()->set_seed(6);
  const Trained second = train_on({2, 1}, other_start, 2, other.path(), first.checkpoint);
  EXPECT_EQ(second.last.step, 5);
  EXPECT_NEAR(second.last.loss, straight.last.loss, 1e-5);
  EXPECT_EQ(second.last.tokens_per_expert, straight.last.tokens_per_expert);
  for (const char* name : {"model.layers.0.block_sparse_moe.used", "model.layers.1.block_sparse_moe.table"})
    EXPECT_EQ(saved(second.checkpoint, name), saved(straight.checkpoint, name)) << name;
}

TEST(RouterTable, ForcedRoutingWorksAroundIt) {
  RunConfig config = config_of(kConfig);
  config.mutable_run()->set_routing(RunConfig::Routing::balanced);
  const TemporaryFolder folder;
  const Trained run = train_on({2, 1}, config, 2, folder.path());
  for (const auto& layer : run.last.tokens_per_expert) EXPECT_EQ(layer, std::vector<Index>(4, 20));
  EXPECT_EQ(run.line["scalars"]["first_tokens"], 0.1) << "the inner router reports";
}

TEST(RouterTable, ItsCostIsInTheMemoryTable) {
  RunConfig config = config_of(kConfig);
  config.mutable_model()->mutable_router()->set_kind("softmax_top_k");
  const RunConfig plain = resolve(config, 1);
  const RunConfig other = resolve(config_of(kConfig), 1, with_one_more());
  const ModelCosts softmax = costs_of(plain);
  const ModelCosts by_id = costs_of(other, with_one_more());
  EXPECT_EQ(by_id.parameters(ModelPart::router), 2 * 4) << "a weight for each expert of two layers";
  EXPECT_EQ(by_id.slots_per_token(), 2);
  // The gate's row, probabilities and log-sum-exp are not kept; choices and weights are.
  EXPECT_DOUBLE_EQ(softmax.saved_bytes_per_token(4) - by_id.saved_bytes_per_token(4), 2 * 4 * (12 + 4 + 1));
  const MemoryEstimate memory = estimate_memory(by_id, other, DType::f32);
  EXPECT_EQ(memory.state, 2 * 4 * (20 + 4)) << "a table and a state in two layers";
  EXPECT_EQ(memory.weights, 4 * static_cast<double>(by_id.parameters())) << "state is not counted among the weights";
  EXPECT_EQ(estimate_memory(softmax, plain, DType::f32).state, 0);
  EXPECT_DOUBLE_EQ(memory.activations, 4 * 10 * by_id.saved_bytes_per_token(4));
  EXPECT_NE(memory_table(by_id, other, DType::f32, 0).find(" + state 0.0 MB"), std::string::npos);
}

std::string refusal(const std::string& router, Index top_k = 2) {
  RunConfig config = config_of(kConfig);
  config.mutable_model()->set_top_k(top_k);
  config.mutable_model()->mutable_router()->Clear();
  config.MergeFrom(config_of("model { router { " + router + " } }"));
  try {
    resolve(config, 1, with_one_more());
  } catch (const InputError& error) {
    return error.what();
  }
  return "nothing was rejected";
}

TEST(RouterTable, ItsRulesAndFieldsAreChecked) {
  EXPECT_EQ(refusal("kind: by_id_and_place"), "nothing was rejected");
  EXPECT_EQ(refusal("kind: by_id_and_place threshold: 0.25"), "nothing was rejected");
  EXPECT_EQ(refusal("kind: by_id_and_place", 3), "the router by_id_and_place chooses two experts, but model.top_k is 3");
  EXPECT_EQ(refusal("kind: by_id_and_place jitter: 0.25"),
            "model.router.jitter is 0.25, but the router 'by_id_and_place' does not use it: leave it out");
  EXPECT_EQ(refusal("kind: by_id_and_place jitter: 0"), "nothing was rejected") << "the default changes nothing";
  EXPECT_EQ(refusal("kind: softmax_top_k group_top_k: 1"),
            "model.router.group_top_k is 1, but the router 'softmax_top_k' does not use it: leave it out");
  EXPECT_EQ(
      refusal("kind: by_id_and_plaice"),
      "model.router.kind is 'by_id_and_plaice', but the routers of this build are sigmoid_top_k, softmax_top_k and by_id_and_place; did "
      "you mean 'by_id_and_place'?");
  const RunConfig once = resolve(config_of(kConfig), 1, with_one_more());
  EXPECT_EQ(once.model().router().max_experts(), 2) << "a default that depends on another field";
  EXPECT_EQ(to_text(resolve(once, 1, with_one_more())), to_text(once));
  RouterTable wrong = with_one_more();
  wrong.back().fields = {"no_such_field"};
  EXPECT_THROW(resolve(config_of(kConfig), 1, wrong), Error);
}

TEST(RouterTable, AnUnknownKindIsRejectedWithThoseThatThereAre) {
  try {
    TrainerRig trainer(config_of(kConfig), small_text(3000, kVocabulary));
    FAIL() << "an unknown router was taken";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("by_id_and_place"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("softmax_top_k"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace yard
