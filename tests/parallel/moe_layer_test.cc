#include "parallel/moe_layer.h"

#include "comm/local.h"
#include "core/nn/routers/softmax_top_k.h"
#include "core/nn/transformer.h"
#include "tests/support/layer_rig.h"
#include "tests/support/loops.h"

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

MoeLayer make_layer(const Case& c, const MoeSettings& model, Communicator& group, const std::shared_ptr<RouterReport>& report) {
  RouterPlace place;
  place.width = kWidth;
  place.experts = c.experts;
  place.top_k = c.k;
  SoftmaxTopKSettings settings;
  settings.normalize = c.normalize;
  settings.capacity_factor = c.capacity;
  settings.losses.balance = 0.3F;
  settings.losses.z = 0.2F;
  MoeLayer::Parts parts;
  place.name = "model.layers.0.block_sparse_moe.";
  parts.router = std::make_unique<SoftmaxTopK>(place, settings);
  parts.exchange = find_exchange("direct").make(group, c.experts, 1, 0);
  parts.experts = make_experts(model, module_place(), 0, c.experts);
  parts.expert_count = c.experts;
  if (c.shared > 0) {
    parts.shared = std::make_unique<SharedExperts>(make_dense_bank(*model.shared, module_place(), place.name + "shared_experts."),
                                                   c.shared_gate ? place.name + "shared_expert_gate.weight" : "", module_place());
  }
  parts.report = report;
  return MoeLayer(std::move(parts));
}

TEST(MoeLayer, IsTheLoopForwardAndBackward) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const MoeSettings model = settings_of(c);
    EventLog records;
    const auto self = make_self(records);
    const auto report = std::make_shared<RouterReport>(cpu(), c.experts);
    MoeLayer layer = make_layer(c, model, *self, report);
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

/// A router that passes tokens themselves on (copy experts): y = self * x + the routed experts.
class Copying final : public Router {
 public:
  Routing forward(Context& context, const Tensor& x, Tape&, RouterReport&) override {
    Routing routing;
    routing.token = tokens_of_slots(context.stream, x.rows(), 1);
    routing.expert = Tensor(context.stream, {x.rows()}, DType::i32);
    routing.weight = random_tensor({x.rows()}, 11);
    routing.self = random_tensor({x.rows()}, 12);
    for (Index n = 0; n < x.rows(); ++n) routing.expert.data<std::int32_t>()[n] = static_cast<std::int32_t>(n % 3) - 1;
    return routing;
  }
  Tensor backward(Context& context, const Tensor& dweight, const Tensor& dself, Tape&) override {
    weight = to_f64(dweight);
    self = to_f64(dself);
    return Tensor::zeros(context.stream, {dself.elements(), 6});
  }
  RouterCost cost() const override {
    RouterCost cost;
    cost.slots_per_token = 1;
    return cost;
  }
  std::vector<double> weight, self;
};

TEST(MoeLayer, PassesTokensOnThemselvesWhereARouterSaysSo) {
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
  parts.report = std::make_shared<RouterReport>(cpu(), 2);
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
      for (std::size_t c = 0; c < 6; ++c) y.push_back(row[c] * w.at("self")[n] + routed[c] * w.at("weight")[n]);
    }
    return y;
  };
  Named<double> at = rig.named();
  at["x"] = to_f64(x);
  at["self"] = to_f64(random_tensor({9}, 12));
  at["weight"] = to_f64(random_tensor({9}, 11));
  const Differentiated exact = differentiate(at, [&]<class S>(const Named<S>& w) {
    S sum = 0.0;
    const auto y = out(w);
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * to_f64(dy)[i];
    return sum;
  });
  Tape tape;
  Context context = rig.context();
  expect_close(layer.forward(context, x, tape), out(at), 1e-5, "y");
  rig.expect_gradients(layer.backward(context, dy, tape), exact, 1e-5);
  expect_close(seen.self, exact.gradients.at("self"), 1e-5, "d(self)");
  expect_close(seen.weight, exact.gradients.at("weight"), 1e-5, "d(weight)");
}

}  // namespace
}  // namespace yard
