#include <fmt/format.h>

#include <cmath>

#include "core/nn/routing/forced_routing.h"
#include "core/random.h"
#include "tests/support/layer_rig.h"
#include "tests/support/loops.h"
#include "tests/support/router_rig.h"

namespace yard {
namespace {

using namespace test;

constexpr Index kWidth = 6;

struct SoftmaxTopKSettings {
  bool normalize = true;
  float scale = 1;
  double capacity_factor = 0;
  Index group_sequences = 1;
  ops::DropPolicy drop = ops::DropPolicy::position;
  float jitter = 0;
  LossSettings losses;

  std::string fields() const {
    std::string text = fmt::format("normalize: {} scale: {} jitter: {} group_sequences: {} drop: {}", normalize, scale, jitter,
                                   group_sequences, drop == ops::DropPolicy::weight ? "weight" : "position");
    if (capacity_factor > 0) text += fmt::format(" capacity_factor: {}", capacity_factor);
    return text;
  }
};

struct Case {
  std::string name;
  Index sequences, length, experts, k;
  SoftmaxTopKSettings settings;
};

SoftmaxTopKSettings with(const std::function<void(SoftmaxTopKSettings&)>& change) {
  SoftmaxTopKSettings settings;
  settings.losses.balance = 0.3F;
  settings.losses.z = 0.2F;
  change(settings);
  return settings;
}

using Scope = LossSettings::Scope;
using Convention = LossSettings::Convention;

std::vector<Case> cases() {
  const auto capacity = [](ops::DropPolicy drop, Index group, bool normalize) {
    return with([=](auto& s) {
      s.capacity_factor = 0.9;
      s.drop = drop;
      s.group_sequences = group;
      s.normalize = normalize;
    });
  };
  return {
      {"Mixtral", 3, 5, 4, 2, with([](auto&) {})},
      {"not normalised, scaled", 3, 5, 4, 2, with([](auto& s) {
         s.normalize = false;
         s.scale = 2.5F;
       })},
      {"normalised, scaled", 2, 4, 5, 3, with([](auto& s) { s.scale = 0.7F; })},
      {"top-1", 2, 6, 3, 1, with([](auto& s) { s.normalize = false; })},
      {"all experts", 1, 6, 3, 3, with([](auto&) {})},
      {"by sequence", 3, 5, 4, 2, with([](auto& s) { s.losses.scope = Scope::sequence; })},
      {"pooled", 3, 5, 4, 2, with([](auto& s) { s.losses.convention = Convention::huggingface; })},
      {"no losses", 3, 5, 4, 2, with([](auto& s) { s.losses.balance = s.losses.z = 0; })},
      {"capacity by position", 4, 9, 3, 2, capacity(ops::DropPolicy::position, 1, false)},
      {"capacity by position, normalised", 4, 9, 3, 2, capacity(ops::DropPolicy::position, 1, true)},
      {"capacity by weight", 4, 9, 3, 2, capacity(ops::DropPolicy::weight, 1, true)},
      {"capacity of groups", 4, 9, 3, 2, capacity(ops::DropPolicy::position, 2, true)},
      {"capacity of groups by weight", 4, 9, 3, 2, capacity(ops::DropPolicy::weight, 4, false)},
      {"Switch", 2, 20, 4, 1, capacity(ops::DropPolicy::position, 1, false)},
      {"at least four", 2, 12, 3, 2, with([](auto& s) { s.capacity_factor = 0.01; })},
      {"jitter", 3, 5, 4, 2, with([](auto& s) { s.jitter = 0.3F; })},
  };
}

RouterPlace place_of(const Case& c) {
  RouterPlace place;
  place.width = kWidth;
  place.experts = c.experts;
  place.top_k = c.k;
  place.layer = 2;
  place.losses = c.settings.losses;
  return place;
}

RouterRig router_of(const Case& c) { return {"softmax_top_k", c.settings.fields(), place_of(c), c.sequences}; }

/// What the loops are told. Jitter is U(1 - eps, 1 + eps) keyed by (seed, step, layer, token everywhere) and column.
loops::Routing told(const Case& c) {
  const SoftmaxTopKSettings& s = c.settings;
  loops::Routing how;
  how.normalize = s.normalize;
  how.scale = static_cast<double>(s.scale);
  how.length = static_cast<std::size_t>(c.length);
  how.group = static_cast<std::size_t>(c.length * s.group_sequences);
  how.by_weight = s.drop == ops::DropPolicy::weight;
  if (s.capacity_factor > 0) {
    const double even = static_cast<double>(how.group) * static_cast<double>(c.k) / static_cast<double>(c.experts);
    how.capacity = std::max<std::size_t>(4, static_cast<std::size_t>(std::ceil(s.capacity_factor * even)));
  }
  how.balance = static_cast<double>(s.losses.balance);
  how.z = static_cast<double>(s.losses.z);
  how.form = s.losses.convention == Convention::huggingface ? loops::Routing::Form::huggingface
             : s.losses.scope == Scope::sequence            ? loops::Routing::Form::sequence
                                                            : loops::Routing::Form::batch;
  if (s.jitter > 0) {
    const auto eps = static_cast<double>(s.jitter);
    for (Index n = 0; n < c.sequences * c.length; ++n) {
      const Random random(key_of(key_of(5, key_of("jitter"), 0, 2), static_cast<std::uint64_t>(n)));
      for (Index i = 0; i < kWidth; ++i)
        how.noise.push_back(1 - eps + 2 * eps * static_cast<double>(random.uniform(static_cast<std::uint64_t>(i))));
    }
  }
  return how;
}

MoeSettings model_of(const Case& c) {
  MoeSettings model;
  model.experts = c.experts;
  model.top_k = c.k;
  return model;
}

/// The pulled weights of kept slots plus the auxiliary losses.
template <class S>
S loss_of(const Case& c, const loops::Routing& how, const Named<S>& w, const std::vector<double>& pull, loops::Auxiliary<S>& aux,
          loops::Choices<S>* chosen = nullptr) {
  const auto choices = loops::route(model_of(c), how, w.at("gate.weight"), w.at("x"), aux);
  S loss = aux.loss;
  for (std::size_t slot = 0; slot < choices.expert.size(); ++slot) {
    if (choices.expert[slot] >= 0) loss += choices.weight[slot] * pull[slot];
  }
  if (how.form == loops::Routing::Form::huggingface) {  // one layer: the pooled rows are its own
    const auto rows = static_cast<double>(c.sequences * c.length);
    for (std::size_t e = 0; e < static_cast<std::size_t>(c.experts); ++e) {
      loss += aux.probability[0][e] * (how.balance * static_cast<double>(c.experts) * aux.counts[0][e] / (rows * rows));
    }
  }
  if (chosen != nullptr) *chosen = choices;
  return loss;
}

TEST(SoftmaxTopK, IsTheLoopForwardAndBackward) {
  std::size_t dropped_somewhere = 0;
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    RouterRig router = router_of(c);
    LayerRig rig([&](const auto& see) { router->visit(see); }, c.sequences, c.length);
    const Tensor x = random_tensor({rig.tokens.rows(), kWidth}, 1);
    const Tensor pull = random_tensor({rig.tokens.rows() * c.k}, 2);
    const loops::Routing how = told(c);
    Named<double> at = rig.named();
    at["x"] = to_f64(x);
    const auto loss = [&]<class S>(const Named<S>& w) {
      loops::Auxiliary<S> aux;
      return loss_of(c, how, w, to_f64(pull), aux);
    };
    const Differentiated exact = differentiate(at, loss);
    expect_differences(at, loss, exact);
    loops::Auxiliary<double> aux;
    loops::Choices<double> expected;
    loss_of(c, how, at, to_f64(pull), aux, &expected);

    RoutingTotals totals(cpu(), 1, c.experts);
    Tape tape;
    Context context = rig.context();
    context.totals = &totals;
    const Routing routing = router->forward(context, x, tape);
    EXPECT_EQ(to_f64(routing.expert), std::vector<double>(expected.expert.begin(), expected.expert.end()));
    expect_close(routing.weight, expected.weight, 1e-5, "weights");
    EXPECT_EQ(to_f64(totals.micro()), aux.counts[0]) << "counts are taken before dropping";
    for (Index slot = 0; slot < routing.token.elements(); ++slot) EXPECT_EQ(routing.token.data<std::int32_t>()[slot], slot / c.k);
    std::size_t dropped = 0;
    std::size_t seen = 0;
    const std::vector<double> drops = router.scalar("dropped");
    for (std::size_t i = 0; i < drops.size(); ++i) (i < 4 ? dropped : seen) += static_cast<std::size_t>(drops[i]);
    EXPECT_EQ(dropped, aux.dropped);
    EXPECT_EQ(seen, how.capacity > 0 ? expected.expert.size() : 0);
    if (how.capacity > 0) {
      EXPECT_GT(dropped, 0U) << "the case drops nothing";
    }
    dropped_somewhere += dropped;
    // The gradient of a weight that was not used is zero, as the layer hands it over.
    const Tensor dweight(cpu(), {pull.elements()});
    for (Index slot = 0; slot < pull.elements(); ++slot) {
      dweight.data<float>()[slot] = expected.expert[static_cast<std::size_t>(slot)] < 0 ? 0 : pull.data<float>()[slot];
    }
    const Tensor dx = router->backward(context, dweight, {}, tape);
    rig.expect_gradients(dx, exact, 1e-5);
    EXPECT_TRUE(tape.empty());
    const RoutingSummary reported = router.reported();
    expect_close(std::vector{reported.loss("balance"), reported.loss("z")}, std::vector{aux.balance[0], aux.z[0]}, 1e-5,
                 "balance and z at coefficient 1");
  }
  EXPECT_GT(dropped_somewhere, 0U);
}

TEST(SoftmaxTopK, NeitherDropsNorJittersInAnEvaluation) {
  for (const Case& c : cases()) {
    RouterRig router = router_of(c);
    LayerRig rig([&](const auto& see) { router->visit(see); }, c.sequences, c.length);
    const Tensor x = random_tensor({rig.tokens.rows(), kWidth}, 1);
    Case plain = c;
    plain.settings.capacity_factor = 0;
    plain.settings.jitter = 0;
    loops::Auxiliary<double> aux;
    const auto expected = loops::route(model_of(c), told(plain), rig.named().at("gate.weight"), to_f64(x), aux);
    Tape tape;
    Context context = rig.context(Pass::evaluate);
    const Routing routing = router->forward(context, x, tape);
    EXPECT_EQ(to_f64(routing.expert), std::vector<double>(expected.expert.begin(), expected.expert.end())) << c.name;
    expect_close(routing.weight, expected.weight, 1e-5, c.name);
    EXPECT_TRUE(tape.empty());
    for (const double value : to_f64(router.reports.values())) EXPECT_EQ(value, 0) << "an evaluation must not count";
  }
}

TEST(SoftmaxTopK, ARepeatedPassChoosesTheSameAndCountsNothing) {
  for (const Case& c : cases()) {
    RouterRig router = router_of(c);
    LayerRig rig([&](const auto& see) { router->visit(see); }, c.sequences, c.length);
    const Tensor x = random_tensor({rig.tokens.rows(), kWidth}, 1);
    RoutingTotals totals(cpu(), 1, c.experts);
    const auto run = [&](Pass pass) {
      Tape tape;
      Context context = rig.context(pass);
      context.totals = &totals;
      return router->forward(context, x, tape);
    };
    const Routing first = run(Pass::train);
    const auto reported = to_f64(router.reports.values());
    const auto counts = to_f64(totals.micro());
    const Routing again = run(Pass::recompute);
    expect_same_bits(again.expert, first.expert, c.name);
    expect_same_bits(again.weight, first.weight, c.name);
    EXPECT_EQ(to_f64(router.reports.values()), reported);
    EXPECT_EQ(to_f64(totals.micro()), counts);
  }
}

TEST(SoftmaxTopK, PaddingIsNeitherRoutedNorCounted) {
  const Case c{"padding", 2, 5, 4, 2, with([](auto&) {})};
  RouterRig router = router_of(c);
  LayerRig rig([&](const auto& see) { router->visit(see); }, c.sequences, c.length);
  rig.tokens.ids.data<std::int32_t>()[3] = -1;
  rig.tokens.ids.data<std::int32_t>()[9] = -1;
  RoutingTotals totals(cpu(), 1, c.experts);
  Tape tape;
  Context context = rig.context();
  context.totals = &totals;
  const Routing routing = router->forward(context, random_tensor({10, kWidth}, 1), tape);
  for (Index slot = 0; slot < 20; ++slot) {
    EXPECT_EQ(routing.expert.data<std::int32_t>()[slot] < 0, slot / 2 == 3 || slot / 2 == 9) << slot;
  }
  double counted = 0;
  for (const double n : to_f64(totals.micro())) counted += n;
  EXPECT_EQ(counted, 16);
  const Tensor dx = router->backward(context, Tensor::zeros(cpu(), {20}), {}, tape);
  for (const Index row : {3, 9}) {
    for (Index i = 0; i < kWidth; ++i) EXPECT_EQ(dx.data<float>()[row * kWidth + i], 0) << "padding feels no auxiliary loss";
  }
}

TEST(SoftmaxTopK, CapacityIsTheCeilingOfTheExactProduct) {
  // 1.1 x 2 x 15 / 3 is 11, also though 1.1 is no binary number.
  const Case c{"eleven", 1, 15, 3, 2, with([](auto& s) { s.capacity_factor = 1.1; })};
  RouterRig router = router_of(c);
  LayerRig rig([&](const auto& see) { router->visit(see); }, c.sequences, c.length);
  Tensor x(cpu(), {15, kWidth});
  for (Index i = 0; i < x.elements(); ++i) x.data<float>()[i] = 1;  // every token chooses alike
  Tape tape;
  Context context = rig.context();
  const Routing routing = router->forward(context, x, tape);
  Index kept = 0;
  for (const double expert : to_f64(routing.expert)) kept += expert >= 0 ? 1 : 0;
  EXPECT_EQ(kept, 22);  // 11 of each of the two experts
}

TEST(SoftmaxTopK, CostsItsGateAndWhatItSaves) {
  const Case c{"cost", 2, 5, 4, 2, with([](auto&) {})};
  const RouterCost cost = router_of(c)->cost();
  EXPECT_EQ(cost.slots_per_token, 2);
  EXPECT_EQ(cost.parameters, 4 * kWidth);
  EXPECT_EQ(cost.state_bytes, 0);
  EXPECT_EQ(cost.saved_bytes_per_token, 4 * (kWidth + 4 + 1 + 2 * 2));
}

TEST(SoftmaxTopK, ForcedRoutingIsBalancedOrSkewed) {
  for (const float skew : {0.0F, 0.5F}) {
    const Case c{"forced", 8, 64, 8, 2, with([](auto&) {})};
    RouterRig alone = router_of(c);
    ForcedRouting router(alone.take(), skew);
    LayerRig rig([&](const auto& see) { router.visit(see); }, c.sequences, c.length);
    RoutingTotals totals(cpu(), 1, c.experts);
    Tape tape;
    Context context = rig.context();
    context.totals = &totals;
    const Tensor x = random_tensor({512, kWidth}, 1);
    const Routing routing = router.forward(context, x, tape);
    EXPECT_EQ(context.choice_override, nullptr) << "forced for the inner router only";
    const auto counts = to_f64(totals.micro());
    if (skew == 0) {
      EXPECT_EQ(counts, std::vector<double>(8, 128.0));
    } else {
      EXPECT_NEAR(counts[0] / 512, 0.5 + 0.5 * 2 / 8, 0.07);  // its share: the skew, and its turn among the rest
    }
    const auto gate = rig.named().at("gate.weight");
    for (Index slot = 0; slot < 1024; slot += 2) {
      const auto a = routing.expert.data<std::int32_t>()[slot];
      const auto b = routing.expert.data<std::int32_t>()[slot + 1];
      EXPECT_NE(a, b) << "an expert twice";
      const auto logit = [&](std::int32_t expert) {
        double sum = 0;
        for (Index i = 0; i < kWidth; ++i)
          sum += gate[static_cast<std::size_t>(expert * kWidth + i)] * static_cast<double>(x.data<float>()[slot / 2 * kWidth + i]);
        return sum;
      };
      EXPECT_NEAR(routing.weight.data<float>()[slot], 1 / (1 + std::exp(logit(b) - logit(a))), 1e-5) << "weights of the forced choices";
    }
  }
}

}  // namespace
}  // namespace yard
