#include "parallel/moe_layer.h"

#include <fmt/format.h>

#include "comm/local.h"
#include "core/nn/transformer.h"
#include "tests/support/layer_rig.h"
#include "tests/support/loops.h"
#include "tests/support/router_rig.h"

namespace yard {
namespace {

using namespace test;

struct Case {
  std::string name;
  Index experts, k, shared;
  bool shared_gate, normalize;
  double capacity;
};

std::vector<Case> cases() {
  return {{"top-2", 4, 2, 0, false, true, 0},
          {"top-1 with a capacity", 2, 1, 0, false, false, 0.5},
          {"all experts", 3, 3, 0, false, true, 0},
          {"shared", 4, 2, 7, false, true, 0},
          {"shared with a gate, normalised, dropping", 3, 2, 4, true, true, 0.4}};
}

constexpr Index kWidth = 6;

MoeSettings settings_of(const Case& c) {
  MoeSettings settings;
  settings.experts = c.experts;
  settings.top_k = c.k;
  settings.expert.hidden = 5;
  if (c.shared > 0) {
    settings.shared = settings.expert;
    settings.shared->hidden = c.shared;
  }
  settings.shared_gate = c.shared_gate;
  return settings;
}

ModulePlace module_place() {
  ModulePlace place;
  place.width = kWidth;
  return place;
}

RouterPlace place_of(const Case& c) {
  RouterPlace place;
  place.width = kWidth;
  place.experts = c.experts;
  place.top_k = c.k;
  place.name = "model.layers.0.block_sparse_moe.";
  place.losses.balance = 0.3F;
  place.losses.z = 0.2F;
  return place;
}

std::string router_fields(const Case& c) {
  return fmt::format("normalize: {}", c.normalize) + (c.capacity > 0 ? fmt::format(" capacity_factor: {}", c.capacity) : "");
}

MoeLayer make_layer(const Case& c, const MoeSettings& model, Communicator& group, RouterRig& router) {
  const RouterPlace place = place_of(c);
  MoeLayer::Parts parts;
  parts.router = router.take();
  parts.exchange = find_exchange("direct").make(group, c.experts, 1, 0);
  parts.experts = make_experts(model, module_place(), 0, c.experts);
  parts.expert_count = c.experts;
  if (c.shared > 0) {
    parts.shared = std::make_unique<SharedExperts>(make_dense_bank(*model.shared, module_place(), place.name + "shared_experts."),
                                                   c.shared_gate ? place.name + "shared_expert_gate.weight" : "", module_place());
  }
  return MoeLayer(std::move(parts));
}

TEST(MoeLayer, IsTheLoopForwardAndBackward) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const MoeSettings model = settings_of(c);
    EventLog records;
    const auto self = make_self(records);
    RouterRig router("softmax_top_k", router_fields(c), place_of(c), 2);
    MoeLayer layer = make_layer(c, model, *self, router);
    LayerRig rig([&](const auto& see) { layer.visit(see); }, 2, 12);
    const Tensor x = random_tensor({24, kWidth}, 1);
    const Tensor dy = random_tensor(x.shape(), 2);

    loops::Routing how;
    how.normalize = c.normalize;
    how.length = how.group = 12;
    how.capacity = c.capacity > 0 ? 4 : 0;
    if (c.capacity > 0) {
      how.capacity = std::max<std::size_t>(
          4, static_cast<std::size_t>(std::ceil(c.capacity * 12 * static_cast<double>(c.k) / static_cast<double>(c.experts))));
    }
    how.balance = 0.3F;
    how.z = 0.2F;
    const auto out = [&]<class S>(const Named<S>& w, loops::Auxiliary<S>& aux) {
      return loops::moe(model, how, w, "model.layers.0.block_sparse_moe.", w.at("x"), aux);
    };
    const auto loss = [&]<class S>(const Named<S>& w) {
      loops::Auxiliary<S> aux;
      const auto y = out(w, aux);
      S sum = aux.loss;
      const auto pull = to_f64(dy);
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * pull[i];
      return sum;
    };
    Named<double> at = rig.named();
    at["x"] = to_f64(x);
    const Differentiated exact = differentiate(at, loss);
    expect_differences(at, loss, exact);
    loops::Auxiliary<double> aux;
    const auto expected = out(at, aux);
    if (c.capacity > 0) {
      EXPECT_GT(aux.dropped, 0U);
    }

    RoutingTotals totals(cpu(), 1, c.experts);
    Tape tape;
    Context context = rig.context();
    context.totals = &totals;
    expect_close(layer.forward(context, x, tape), expected, 1e-5, "y");
    EXPECT_EQ(to_f64(totals.micro()), aux.counts[0]);
    rig.expect_gradients(layer.backward(context, dy, tape), exact, 1e-5);
    EXPECT_TRUE(tape.empty());
  }
}

/// A router with a copy and a constant expert, which it computes locally: y = a x + b v + the routed experts.
class Copying final : public Router {
 public:
  Routing forward(Context& context, const Tensor& x, Tape& tape) override {
    Routing routing;
    routing.token = tokens_of_slots(context.stream, x.rows(), 1);
    routing.expert = Tensor(context.stream, {x.rows()}, DType::i32);
    routing.weight = random_tensor({x.rows()}, 11);
    routing.local_weight = random_tensor({x.rows(), 2}, 12);
    for (Index n = 0; n < x.rows(); ++n) routing.expert.data<std::int32_t>()[n] = static_cast<std::int32_t>(n % 3) - 1;
    tape.push(Saved{x, routing.local_weight});
    return routing;
  }
  Tensor local(Context& context, const Tensor& x, const Routing& routing) override {
    Tensor y(context.stream, x.shape());
    for (Index i = 0; i < y.elements(); ++i) {
      const float* const factor = routing.local_weight.data<float>() + i / x.cols() * 2;
      y.data<float>()[i] = factor[0] * x.data<float>()[i] + factor[1] * constant_.value.data<float>()[i % x.cols()];
    }
    return y;
  }
  Tensor backward(Context& context, const Tensor& dweight, const Tensor& dy, Tape& tape) override {
    const auto saved = tape.pop<Saved>();
    weight = to_f64(dweight);
    local_weight.assign(static_cast<std::size_t>(2 * dy.rows()), 0);
    Tensor dx(context.stream, dy.shape());
    for (Index i = 0; i < dy.elements(); ++i) {
      const auto row = static_cast<std::size_t>(i / dy.cols());
      const float* const by = saved.local_weight.data<float>() + 2 * row;
      const float d = dy.data<float>()[i];
      dx.data<float>()[i] = by[0] * d;
      constant_.grad.data<float>()[i % dy.cols()] += by[1] * d;
      local_weight[2 * row] += static_cast<double>(d * saved.x.data<float>()[i]);
      local_weight[2 * row + 1] += static_cast<double>(d * constant_.value.data<float>()[i % dy.cols()]);
    }
    return dx;
  }
  void visit(const std::function<void(Parameter&)>& visitor) override { visitor(constant_); }
  RouterCost cost() const override { return {1, 6, {}, 0, 0}; }
  std::vector<double> weight, local_weight;

 private:
  struct Saved {
    Tensor x, local_weight;
  };
  Parameter constant_ = Parameter::vector("constant", 6, Init::ones());
};

/// Records what a layer logs.
class Recorded final : public RoutingLog {
 public:
  void record(const Context&, Index moe_layer, const Routing& routing) override {
    layers.push_back(moe_layer);
    expert = to_f64(routing.expert);
  }
  std::vector<Index> layers;
  std::vector<double> expert;
};

TEST(MoeLayer, AddsWhatARouterComputesLocallyAndRecordsItsChoices) {
  const MoeSettings model = settings_of({"", 2, 1, 0, false, false, 0});
  EventLog records;
  const auto self = make_self(records);
  MoeLayer::Parts parts;
  auto router = std::make_unique<Copying>();
  const Copying& seen = *router;
  parts.router = std::move(router);
  parts.exchange = find_exchange("direct").make(*self, 2, 1, 0);
  parts.experts = make_experts(model, module_place(), 0, 2);
  parts.expert_count = 2;
  parts.moe_layer = 4;
  MoeLayer layer(std::move(parts));
  LayerRig rig([&](const auto& see) { layer.visit(see); }, 1, 9);
  const Tensor x = random_tensor({9, 6}, 1);
  const Tensor dy = random_tensor({9, 6}, 2);
  const auto out = [&]<class S>(const Named<S>& w) {
    std::vector<S> y;
    for (std::size_t n = 0; n < 9; ++n) {
      const std::vector<S> row(w.at("x").begin() + static_cast<std::ptrdiff_t>(n * 6),
                               w.at("x").begin() + static_cast<std::ptrdiff_t>(n * 6 + 6));
      std::vector<S> routed(6, S(0.0));
      if (n % 3 > 0) {
        const auto names = names::expert(0, static_cast<Index>(n % 3) - 1);
        routed = loops::feed_forward(model.expert, w, {names.gate, names.up, names.down}, row);
      }
      for (std::size_t c = 0; c < 6; ++c)
        y.push_back(row[c] * w.at("local_weight")[2 * n] + w.at("constant")[c] * w.at("local_weight")[2 * n + 1] +
                    routed[c] * w.at("weight")[n]);
    }
    return y;
  };
  Named<double> at = rig.named();
  at["x"] = to_f64(x);
  at["local_weight"] = to_f64(random_tensor({9, 2}, 12));
  at["weight"] = to_f64(random_tensor({9}, 11));
  const Differentiated exact = differentiate(at, [&]<class S>(const Named<S>& w) {
    S sum = 0.0;
    const auto y = out(w);
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * to_f64(dy)[i];
    return sum;
  });
  Tape tape;
  Context context = rig.context();
  Recorded log;
  context.log = &log;
  expect_close(layer.forward(context, x, tape), out(at), 1e-5, "y");
  EXPECT_EQ(log.layers, std::vector<Index>{4});
  EXPECT_EQ(log.expert, (std::vector<double>{-1, 0, 1, -1, 0, 1, -1, 0, 1}));
  rig.expect_gradients(layer.backward(context, dy, tape), exact, 1e-5);
  expect_close(seen.local_weight, exact.gradients.at("local_weight"), 1e-5, "d(local weight)");
  expect_close(seen.weight, exact.gradients.at("weight"), 1e-5, "d(weight)");
}

/// Experts that keep a state and count steps.
class Remembering final : public Experts {
 public:
  Remembering(std::unique_ptr<Experts> inner, std::vector<bool>& skipped) : inner_(std::move(inner)), skipped_(skipped) {}
  Tensor forward(Context& context, const ExpertRows& rows, Tape& tape) override { return inner_->forward(context, rows, tape); }
  ExpertsGradient backward(Context& context, const Tensor& dy, Tape& tape) override { return inner_->backward(context, dy, tape); }
  void visit(const std::function<void(Parameter&)>& visitor) override { inner_->visit(visitor); }
  void visit_costs(const ExpertsUse& use, const CostVisitor& visitor) const override { inner_->visit_costs(use, visitor); }
  void visit_state(const std::function<void(State&)>& visitor) override { visitor(state_); }
  void after_step(Context&, bool skipped) override { skipped_.push_back(skipped); }

 private:
  std::unique_ptr<Experts> inner_;
  std::vector<bool>& skipped_;
  State state_{"experts.0.memory", Tensor::zeros(cpu(), {3}), ParamKind::expert};
};

TEST(MoeLayer, ExpertsHaveStateAndSeeTheEndOfSteps) {
  const Case c{"", 2, 1, 4, false, false, 0};
  const MoeSettings model = settings_of(c);
  EventLog records;
  const auto self = make_self(records);
  RouterRig router("sigmoid_top_k", router_fields(c), place_of(c), 1);
  std::vector<bool> skipped;
  std::vector<bool> shared_skipped;
  MoeLayer::Parts parts;
  parts.router = router.take();
  parts.exchange = find_exchange("direct").make(*self, 2, 1, 0);
  parts.experts = std::make_unique<Remembering>(make_experts(model, module_place(), 0, 2), skipped);
  parts.expert_count = 2;
  parts.shared = std::make_unique<SharedExperts>(
      std::make_unique<Remembering>(make_dense_bank(*model.shared, module_place(), "shared."), shared_skipped), "", module_place());
  MoeLayer layer(std::move(parts));
  std::vector<std::string> names;
  layer.visit_state([&](State& state) { names.push_back(state.name); });
  EXPECT_EQ(names, (std::vector<std::string>{"model.layers.0.block_sparse_moe.gate.e_score_correction_bias", "experts.0.memory",
                                             "experts.0.memory"}));
  LayerRig rig([&](const auto& see) { layer.visit(see); }, 1, 4);
  Context context = rig.context();
  layer.after_step(context, true);
  layer.after_step(context, false);
  EXPECT_EQ(skipped, (std::vector<bool>{true, false}));
  EXPECT_EQ(shared_skipped, skipped);
}

}  // namespace
}  // namespace yard
