#include <omp.h>

#include "tests/support/cluster.h"

namespace yard {
namespace {

using namespace test;

/// A router that looks at everything a router may see beside its rows: a token's id and place, where sequences begin, the step and the
/// pass. It learns one weight an expert. Nothing outside of this file knows it.
class ByIdAndPlace final : public Router {
 public:
  explicit ByIdAndPlace(const RouterPlace& place)
      : place_(place), weight_(Parameter::vector(place.name + "weight", place.experts, Init::ones())) {}

  Routing forward(Context& context, const Tensor& x, Tape& tape, RouterReport&) override {
    const Tokens& tokens = context.tokens;
    Routing routing;
    routing.token = tokens_of_slots(context.stream, x.rows(), 2);
    routing.expert = Tensor(context.stream, {2 * x.rows()}, DType::i32);
    routing.weight = Tensor(context.stream, {2 * x.rows()});
    for (Index n = 0; n < x.rows(); ++n) {
      const Index sequence = tokens.first_sequence + n / tokens.length;  // its number everywhere
      const Index key = tokens.ids.data<std::int32_t>()[n] + tokens.positions.data<std::int32_t>()[n] + sequence + context.step;
      const bool one = n % tokens.length == 0;  // a sequence's first token has one expert only
      for (Index j = 0; j < 2; ++j) {
        const bool used = (j == 0 || !one) && tokens.ids.data<std::int32_t>()[n] >= 0;
        const auto expert = static_cast<std::int32_t>((key + j) % place_.experts);
        routing.expert.data<std::int32_t>()[2 * n + j] = used ? expert : -1;
        routing.weight.data<float>()[2 * n + j] = used ? weight_.value.data<float>()[expert] : 0;
        if (used && context.pass == Pass::train && context.totals != nullptr) {
          ++context.totals->layer(place_.moe_layer).data<std::int64_t>()[expert];
        }
      }
    }
    if (context.training()) tape.push(Saved{routing.expert});
    return routing;
  }

  Tensor backward(Context& context, const Tensor& dweight, const Tensor&, Tape& tape) override {
    const auto saved = tape.pop<Saved>();
    for (Index slot = 0; slot < dweight.elements(); ++slot) {
      const auto expert = saved.expert.data<std::int32_t>()[slot];
      if (expert >= 0) weight_.grad.data<float>()[expert] += dweight.data<float>()[slot];
    }
    return Tensor::zeros(context.stream, {context.tokens.rows(), place_.width});
  }

  void visit(const std::function<void(Parameter&)>& see) override { see(weight_); }
  RouterCost cost() const override {
    RouterCost cost;
    cost.slots_per_token = 2;
    cost.parameters = place_.experts;
    return cost;
  }

 private:
  struct Saved {
    Tensor expert;
  };
  RouterPlace place_;
  Parameter weight_;
};

RouterTable with_one_more() {
  RouterTable routers = default_routers();
  routers["by_id_and_place"] = [](const RouterPlace& place, const RunConfig&, const SumOverRanks&) {
    return std::make_unique<ByIdAndPlace>(place);
  };
  return routers;
}

constexpr const char* kConfig =
    "run { seed: 5 steps: 30 } init { deviation: 0.1 } optimizer { warmup_steps: 2 peak_rate: 0.02 schedule: constant } "
    "data { length: 10 global_batch: 4 } "
    "model { vocabulary: 20 width: 12 layers: 2 heads: 2 experts: 4 top_k: 2 hidden: 10 router { kind: \"by_id_and_place\" } }";

TEST(RouterTable, TakesARouterThatNothingElseKnows) {
  omp_set_num_threads(1);  // many small steps
  const auto data = small_text(3000, 20);
  TrainerRig trainer(config_of(kConfig), data, with_one_more());
  const StepReport first = trainer->step();
  for (const auto& layer : first.tokens_per_expert) {
    Index slots = 0;
    for (const Index count : layer) slots += count;
    EXPECT_EQ(slots, 4 * (10 * 2 - 1)) << "two experts a token, one for the first of each sequence";
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

TEST(RouterTable, ItsRouterTrainsAlikeOnEveryLayout) {
  const auto data = small_text(3000, 20);
  std::vector<double> losses;
  for (const MeshShape shape : {MeshShape{1, 1}, MeshShape{2, 1}, MeshShape{2, 2}}) {
    double loss = 0;
    run_local_world(shape.ranks(), [&](Communicator& world) {
      omp_set_num_threads(1);
      const bool speaks = world.rank() == 0;
      TrainerRig trainer(world, config_of(kConfig), data, shape, with_one_more());
      trainer->step();
      const double after = trainer->step().loss;
      if (speaks) loss = after;
    });
    losses.push_back(loss);
  }
  EXPECT_NEAR(losses[1], losses[0], 1e-5);
  EXPECT_NEAR(losses[2], losses[0], 1e-5);
}

TEST(RouterTable, AnUnknownKindIsRefusedWithThoseThatThereAre) {
  try {
    TrainerRig trainer(config_of(kConfig), small_text(3000, 20));
    FAIL() << "an unknown router was taken";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("by_id_and_place"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("softmax_top_k"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace yard
