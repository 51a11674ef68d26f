#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/support/layer_rig.h"
#include "tests/support/router_rig.h"

namespace yard {
namespace {

using namespace test;

constexpr Index kWidth = 6;

struct Case {
  std::string name;
  Index sequences, length, experts, k;
  Index groups = 1, kept_groups = 1;
  bool normalize = true;
  float scale = 1;
  LossSettings losses = {0.3F, 0.2F, LossSettings::Scope::batch, LossSettings::Convention::megatron};
  std::vector<float> bias = {};
  double capacity_factor = 0;

  std::string fields() const {
    std::string text =
        fmt::format("groups: {} group_top_k: {} normalize: {} scale: {} bias_rate: 0.25", groups, kept_groups, normalize, scale);
    return capacity_factor > 0 ? text + fmt::format(" capacity_factor: {}", capacity_factor) : text;
  }
};

std::vector<Case> cases() {
  const LossSettings by_sequence = {0.3F, 0, LossSettings::Scope::sequence, LossSettings::Convention::megatron};
  const LossSettings pooled = {0.3F, 0.2F, LossSettings::Scope::batch, LossSettings::Convention::huggingface};
  return {
      {"plain", 3, 5, 4, 2},
      {"DeepSeek-V3", 3, 5, 8, 3, 4, 2, true, 2.5F, by_sequence, {0.1F, -0.2F, 0, 0.3F, 0, 0, -0.1F, 0.2F}},
      {"a bias below all scores", 2, 6, 4, 2, 2, 1, true, 1, by_sequence, {-3, -3.5F, -3, -2.5F}},
      {"not normalised", 3, 5, 4, 2, 1, 1, false, 2},
      {"one choice", 2, 6, 3, 1, 1, 1, false},
      {"all experts", 1, 6, 3, 3},
      {"groups of one expert", 2, 5, 4, 2, 4, 3},
      {"every token to one expert", 2, 5, 4, 1, 1, 1, false, 1, by_sequence, {0, 0, 2, 0}},
      {"one token", 1, 1, 4, 2},
      {"one expert", 2, 3, 1, 1, 1, 1, false},
      {"pooled", 3, 5, 4, 2, 1, 1, true, 1, pooled},
      {"no losses", 3, 5, 4, 2, 1, 1, true, 1, {0, 0}},
      {"capacity", 2, 12, 3, 2, 1, 1, true, 1, {0.3F, 0.2F}, {}, 0.5},
  };
}

RouterPlace place_of(const Case& c) {
  RouterPlace place;
  place.width = kWidth;
  place.experts = c.experts;
  place.top_k = c.k;
  place.losses = c.losses;
  return place;
}

Tensor bias_of(Router& router) {
  Tensor bias;
  router.visit_state([&](State& state) {
    EXPECT_EQ(state.name, "gate.e_score_correction_bias");
    bias = state.value;
  });
  return bias;
}

/// A router of the case, its bias set.
struct Made : RouterRig {
  explicit Made(const Case& c) : RouterRig("sigmoid_top_k", c.fields(), place_of(c), c.sequences) {
    for (std::size_t e = 0; e < c.bias.size(); ++e) bias_of(**this).data<float>()[e] = c.bias[e];
  }
};

/// What the loop below found: choices in falling order of biased score, counts, and the losses at coefficient 1.
template <class S>
struct Loop {
  std::vector<int> expert;  // after dropping
  std::vector<S> weight;
  std::vector<double> counts;       // of the choices
  std::vector<double> loss_counts;  // of the top-k of scores without bias and groups: what the balance loss counts
  S balance = 0.0, z = 0.0;
};

/// The experts that a token may use: those of the groups with the largest sums of their two largest biased scores; of equal groups, the
/// lower one.
std::vector<std::size_t> allowed(const std::vector<double>& biased, const Case& c) {
  const std::size_t each = biased.size() / static_cast<std::size_t>(c.groups);
  std::vector<std::pair<double, std::size_t>> groups;
  for (std::size_t g = 0; g < static_cast<std::size_t>(c.groups); ++g) {
    std::vector<double> own(biased.begin() + static_cast<std::ptrdiff_t>(g * each),
                            biased.begin() + static_cast<std::ptrdiff_t>((g + 1) * each));
    std::sort(own.rbegin(), own.rend());
    groups.emplace_back(-(own[0] + (each > 1 ? own[1] : 0)), g);
  }
  std::sort(groups.begin(), groups.end());
  std::vector<std::size_t> experts;
  for (std::size_t i = 0; i < static_cast<std::size_t>(c.kept_groups); ++i) {
    for (std::size_t e = 0; e < each; ++e) experts.push_back(groups[i].second * each + e);
  }
  std::sort(experts.begin(), experts.end());
  return experts;
}

/// numerics.md, section 4, "DeepSeek-V3 in full"; its balance loss takes s / sum(s) as probabilities.
template <class S>
Loop<S> route(const Case& c, const std::vector<S>& gate, const std::vector<S>& x) {
  const auto experts = static_cast<std::size_t>(c.experts);
  const auto k = static_cast<std::size_t>(c.k);
  const auto length = static_cast<std::size_t>(c.length);
  const std::size_t rows = x.size() / kWidth;
  Loop<S> loop;
  loop.counts.assign(experts, 0);
  loop.loss_counts.assign(experts, 0);
  std::vector<S> probability;  // (rows x experts)
  std::vector<std::vector<double>> of_sequence(static_cast<std::size_t>(c.sequences), std::vector<double>(experts, 0.0));
  for (std::size_t n = 0; n < rows; ++n) {
    std::vector<S> score;
    S exponentials = 0.0;
    S sum = 0.0;
    for (std::size_t e = 0; e < experts; ++e) {
      S logit = 0.0;
      for (std::size_t i = 0; i < kWidth; ++i) logit += x[n * kWidth + i] * gate[e * kWidth + i];
      exponentials += exp(logit);
      score.push_back(S(1.0) / (S(1.0) + exp(-logit)));
      sum += score.back();
    }
    if (c.losses.z > 0) loop.z += log(exponentials) * log(exponentials) / static_cast<double>(rows);
    for (const S& s : score) probability.push_back(s / sum);
    std::vector<double> biased;
    for (std::size_t e = 0; e < experts; ++e) biased.push_back(number(score[e]) + (c.bias.empty() ? 0 : static_cast<double>(c.bias[e])));
    std::vector<std::size_t> order = allowed(biased, c);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return biased[a] > biased[b]; });
    S chosen = 0.0;
    for (std::size_t j = 0; j < k; ++j) chosen += score[order[j]];
    for (std::size_t j = 0; j < k; ++j) {
      loop.expert.push_back(static_cast<int>(order[j]));
      loop.weight.push_back((c.normalize ? score[order[j]] / (chosen + 1e-20) : score[order[j]]) * static_cast<double>(c.scale));
      loop.counts[order[j]] += 1;
    }
    std::vector<std::size_t> plain(experts);
    std::iota(plain.begin(), plain.end(), std::size_t{0});
    std::stable_sort(plain.begin(), plain.end(), [&](std::size_t a, std::size_t b) { return number(score[a]) > number(score[b]); });
    for (std::size_t j = 0; j < k; ++j) {
      loop.loss_counts[plain[j]] += 1;
      of_sequence[n / length][plain[j]] += 1;
    }
  }
  const double e_over_k = static_cast<double>(experts) / static_cast<double>(k);
  for (std::size_t i = 0; i < probability.size(); ++i) {
    const std::size_t sequence = i / experts / length;
    if (c.losses.scope == LossSettings::Scope::sequence) {
      loop.balance +=
          probability[i] * (of_sequence[sequence][i % experts] * e_over_k / static_cast<double>(length * length * of_sequence.size()));
    } else {
      loop.balance += probability[i] * (loop.loss_counts[i % experts] * e_over_k / static_cast<double>(rows * rows));
    }
  }
  if (c.capacity_factor > 0) {  // by position, in each sequence
    const auto capacity = std::max<std::size_t>(
        4, static_cast<std::size_t>(std::ceil(c.capacity_factor * static_cast<double>(k * length) / static_cast<double>(experts))));
    for (std::size_t first = 0; first < loop.expert.size(); first += length * k) {
      std::vector<std::size_t> taken(experts, 0);
      for (std::size_t slot = first; slot < first + length * k; ++slot) {
        if (++taken[static_cast<std::size_t>(loop.expert[slot])] > capacity) loop.expert[slot] = -1;
      }
    }
  }
  return loop;
}

TEST(SigmoidTopK, IsTheLoopForwardAndBackward) {
  bool differ = false;
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    Made router(c);
    LayerRig rig([&](const auto& see) { router->visit(see); }, c.sequences, c.length);
    const Tensor x = random_tensor({rig.tokens.rows(), kWidth}, 1);
    const Tensor pull = random_tensor({rig.tokens.rows() * c.k}, 2);
    Named<double> at = rig.named();
    at["x"] = to_f64(x);
    const Loop<double> expected = route(c, at.at("gate.weight"), at.at("x"));
    const double k =
        c.losses.convention == LossSettings::Convention::huggingface ? static_cast<double>(c.k) : 1;  // f counts all choices there
    const auto loss = [&]<class S>(const Named<S>& w) {
      const auto loop = route(c, w.at("gate.weight"), w.at("x"));
      S sum = loop.balance * static_cast<double>(c.losses.balance) * k + loop.z * static_cast<double>(c.losses.z);
      for (std::size_t slot = 0; slot < loop.expert.size(); ++slot) {
        if (loop.expert[slot] >= 0) sum += loop.weight[slot] * to_f64(pull)[slot];
      }
      return sum;
    };
    const Differentiated exact = differentiate(at, loss);
    expect_differences(at, loss, exact);

    RoutingTotals totals(cpu(), 1, c.experts);
    Tape tape;
    Context context = rig.context();
    context.totals = &totals;
    const Routing routing = router->forward(context, x, tape);
    EXPECT_EQ(to_f64(routing.expert), std::vector<double>(expected.expert.begin(), expected.expert.end()));
    expect_close(routing.weight, expected.weight, 1e-5, "weights");
    EXPECT_EQ(to_f64(totals.micro()), expected.counts) << "counts are taken before dropping";
    EXPECT_EQ(to_f64(totals.losses()), expected.loss_counts) << "the loss counts scores without bias and groups";
    differ = differ || expected.counts != expected.loss_counts;
    const Tensor dweight = pull.clone(cpu());
    for (Index slot = 0; slot < pull.elements(); ++slot) {
      if (expected.expert[static_cast<std::size_t>(slot)] < 0) dweight.data<float>()[slot] = 0;
    }
    const bool dropped = std::count(expected.expert.begin(), expected.expert.end(), -1) > 0;
    EXPECT_EQ(dropped, c.capacity_factor > 0) << "a case with a capacity drops something";
    rig.expect_gradients(router->backward(context, dweight, {}, tape), exact, 1e-5);
    EXPECT_TRUE(tape.empty());

    const RoutingSummary reported = router.reported();
    EXPECT_NEAR(reported.loss("balance"), expected.balance, 1e-5 * expected.balance);
    EXPECT_EQ(reported.losses.contains("z"), c.losses.z > 0);
    EXPECT_NEAR(reported.loss("z"), expected.z, 1e-5 * expected.z);
    EXPECT_EQ(reported.layers[0].per_expert.at("selection_bias"), to_f64(bias_of(*router)));
    const auto scalars = router.scalar("dropped");
    EXPECT_EQ(scalars.empty(), c.capacity_factor == 0);
    double reported_drops = 0;
    for (std::size_t i = 0; i < scalars.size() / 2; ++i) reported_drops += scalars[i];
    EXPECT_EQ(reported_drops, std::count(expected.expert.begin(), expected.expert.end(), -1));
  }
  EXPECT_TRUE(differ) << "in some case the bias or the groups change the choice";
}

/// Rows whose scores are exact: sigmoid(0).
TEST(SigmoidTopK, TiesGoToTheLowestExpertOfTheLowestGroup) {
  const Case c{"ties", 1, 4, 8, 2, 4, 2};
  Made router(c);
  LayerRig rig([&](const auto& see) { router->visit(see); }, 1, 4);
  Tape tape;
  Context context = rig.context(Pass::evaluate);
  const Tensor x = Tensor::zeros(cpu(), {4, kWidth});
  EXPECT_EQ(to_f64(router->forward(context, x, tape).expert), (std::vector<double>{0, 1, 0, 1, 0, 1, 0, 1}));
  bias_of(*router).data<float>()[7] = 0.5F;  // its group comes first, and in it this expert
  const Routing routing = router->forward(context, x, tape);
  EXPECT_EQ(to_f64(routing.expert), (std::vector<double>{7, 0, 7, 0, 7, 0, 7, 0}));
  EXPECT_EQ(to_f64(routing.weight), std::vector<double>(8, 0.5)) << "weights do not hold the bias";
  EXPECT_EQ(to_f64(routing.margin), std::vector<double>(4, 0.0)) << "the second group is a tie";
  EXPECT_TRUE(tape.empty());
}

TEST(SigmoidTopK, TheMarginIsTheSmallerOfExpertsAndGroups) {
  const Case c{"margin", 1, 1, 4, 1, 2, 1, false};
  Made router(c);
  LayerRig rig([&](const auto& see) { router->visit(see); }, 1, 1);
  Tape tape;
  Context context = rig.context(Pass::evaluate);
  const Tensor x = Tensor::zeros(cpu(), {1, kWidth});
  const auto margin = [&](std::vector<float> bias) {
    std::copy(bias.begin(), bias.end(), bias_of(*router).data<float>());
    return to_f64(router->forward(context, x, tape).margin)[0];
  };
  EXPECT_EQ(margin({0.5F, 0.25F, 0, 0.25F}), 0.25) << "between the experts of the group; the groups are 0.5 apart";
  EXPECT_EQ(margin({0.5F, 0, 0.25F, 0.125F}), 0.125) << "between the groups";
}

TEST(SigmoidTopK, TheBiasMovesOncePerGlobalBatchAndNotWhenSkipped) {
  const Case c{"bias", 1, 4, 4, 1, 1, 1, false};
  Made router(c);
  LayerRig rig([&](const auto& see) { router->visit(see); }, 1, 4);
  RoutingTotals totals(cpu(), 1, 4);
  Context context = rig.context();
  context.totals = &totals;
  for (int micro = 0; micro < 2; ++micro) {  // two micro-batches, and the second has the opposite load of expert 3
    totals.begin_micro(cpu());
    const std::vector<std::int64_t> counts = micro == 0 ? std::vector<std::int64_t>{8, 0, 1, 7} : std::vector<std::int64_t>{6, 2, 7, 1};
    std::copy(counts.begin(), counts.end(), totals.layer(0).data<std::int64_t>());
    totals.end_micro(cpu());
  }
  router->after_step(context, true);
  EXPECT_EQ(to_f64(bias_of(*router)), std::vector<double>(4, 0.0)) << "a skipped update changes nothing";
  router->after_step(context, false);
  EXPECT_EQ(to_f64(bias_of(*router)), (std::vector<double>{-0.25, 0.25, 0, 0})) << "of 14, 2, 8, 8";
}

TEST(SigmoidTopK, RepeatedAndEvaluationPassesCountAndReportNothing) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    Made router(c);
    LayerRig rig([&](const auto& see) { router->visit(see); }, c.sequences, c.length);
    const Tensor x = random_tensor({rig.tokens.rows(), kWidth}, 1);
    RoutingTotals totals(cpu(), 1, c.experts);
    const auto run = [&](Pass pass) {
      Tape tape;
      Context context = rig.context(pass);
      context.totals = &totals;
      const Routing routing = router->forward(context, x, tape);
      EXPECT_EQ(tape.empty(), pass == Pass::evaluate);
      return routing;
    };
    const Routing first = run(Pass::train);
    const auto reported = to_f64(router.reports.values());
    const auto counts = to_f64(totals.micro());
    const Routing again = run(Pass::recompute);
    expect_same_bits(again.expert, first.expert, c.name);
    expect_same_bits(again.weight, first.weight, c.name);
    const Routing plain = run(Pass::evaluate);
    for (const double expert : to_f64(plain.expert)) EXPECT_GE(expert, 0) << "an evaluation does not drop";
    EXPECT_EQ(to_f64(router.reports.values()), reported);
    EXPECT_EQ(to_f64(totals.micro()), counts);
  }
}

TEST(SigmoidTopK, PaddingIsNeitherRoutedNorCounted) {
  const Case c{"padding", 2, 5, 4, 2};
  Made router(c);
  LayerRig rig([&](const auto& see) { router->visit(see); }, 2, 5);
  for (const int row : {3, 9}) rig.tokens.ids.data<std::int32_t>()[row] = -1;
  RoutingTotals totals(cpu(), 1, 4);
  Tape tape;
  Context context = rig.context();
  context.totals = &totals;
  const Routing routing = router->forward(context, random_tensor({10, kWidth}, 1), tape);
  for (Index slot = 0; slot < 20; ++slot) EXPECT_EQ(routing.expert.data<std::int32_t>()[slot] < 0, slot / 2 == 3 || slot / 2 == 9) << slot;
  double counted = 0;
  for (const double n : to_f64(totals.micro())) counted += n;
  EXPECT_EQ(counted, 16);
  const Tensor dx = router->backward(context, Tensor::zeros(cpu(), {20}), {}, tape);
  for (const Index row : {3, 9}) {
    for (Index i = 0; i < kWidth; ++i) EXPECT_EQ(dx.data<float>()[row * kWidth + i], 0) << "padding feels no auxiliary loss";
  }
}

TEST(SigmoidTopK, RulesSayWhatCannotBe) {
  const auto sentence = [](const std::string& fields, Index experts, Index k) {
    try {
      RouterPlace place;
      place.experts = experts;
      place.top_k = k;
      RouterRig("sigmoid_top_k", fields, place, 1);
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string("nothing was rejected");
  };
  EXPECT_EQ(sentence("groups: 3", 8, 2), "model.experts is 8, which model.router.groups 3 does not divide: it may be 1, 2, 4 or 8");
  EXPECT_EQ(sentence("groups: 2 group_top_k: 3", 8, 2), "model.router.group_top_k is 3, more than the model.router.groups 2");
  EXPECT_EQ(
      sentence("groups: 4 group_top_k: 1", 8, 3),
      "model.top_k is 3, but model.router.group_top_k 1 leaves a token only 2 of the experts: raise it, or lower model.router.groups");
  EXPECT_EQ(sentence("groups: 4 group_top_k: 1", 8, 2), "nothing was rejected");
}

}  // namespace
}  // namespace yard
