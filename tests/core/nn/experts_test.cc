#include "core/nn/experts.h"

#include "core/nn/transformer.h"
#include "tests/support/layer_rig.h"
#include "tests/support/loops.h"

namespace yard {
namespace {

using namespace test;

constexpr ops::Activation kActivations[] = {ops::Activation::silu, ops::Activation::gelu_tanh, ops::Activation::gelu,
                                            ops::Activation::relu};

constexpr Index kWidth = 6;

MoeSettings moe_with(bool gated, ops::Activation activation) {
  MoeSettings moe;
  moe.experts = 4;
  moe.expert.hidden = 5;
  moe.expert.gated = gated;
  moe.expert.activation = activation;
  return moe;
}

ModulePlace place() {
  ModulePlace here;
  here.width = kWidth;
  return here;
}

FeedForwardSettings dense_with(bool gated, ops::Activation activation, Index hidden) {
  FeedForwardSettings settings = moe_with(gated, activation).expert;
  settings.hidden = hidden;
  return settings;
}

/// The inner product with fixed numbers: a loss whose gradient in y is `pull`.
template <class S>
S pulled(const std::vector<S>& y, const Tensor& pull) {
  S sum = y[0] * 0.0;
  const auto numbers = to_f64(pull);
  for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * numbers[i];
  return sum;
}

/// Rows grouped by expert through their experts, times their weights.
template <class S>
std::vector<S> bank(const MoeSettings& moe, const Named<S>& w, const std::vector<Index>& counts, bool weighted) {
  std::vector<S> y;
  std::size_t row = 0;
  const auto width = static_cast<std::ptrdiff_t>(kWidth);
  for (std::size_t e = 0; e < counts.size(); ++e) {
    const auto names = names::expert(0, static_cast<Index>(e));
    for (Index i = 0; i < counts[e]; ++i, ++row) {
      const auto first = w.at("x").begin() + static_cast<std::ptrdiff_t>(row) * width;
      auto out = loops::feed_forward(moe.expert, w, {names.gate, names.up, names.down}, std::vector<S>(first, first + width));
      for (const S& value : out) y.push_back(weighted ? value * w.at("weight")[row] : value);
    }
  }
  return y;
}

TEST(Experts, ABankIsTheLoopForwardAndBackward) {
  const std::vector<Index> counts = {3, 0, 1, 5};  // an expert without a row
  for (const auto activation : kActivations) {
    for (const bool gated : {true, false}) {
      for (const bool weighted : {true, false}) {
        const MoeSettings moe = moe_with(gated, activation);
        const auto experts = make_experts(moe, place(), 0, 4);
        LayerRig rig([&](const auto& see) { experts->visit(see); }, 1, 9);
        const Tensor x = random_tensor({9, kWidth}, 1);
        const Tensor weight = random_tensor({9}, 2);
        const Tensor dy = random_tensor(x.shape(), 3);
        const auto loss = [&](const auto& w) { return pulled(bank(moe, w, counts, weighted), dy); };
        Named<double> at = rig.named();
        at["x"] = to_f64(x);
        if (weighted) at["weight"] = to_f64(weight);
        const Differentiated exact = differentiate(at, loss);
        expect_differences(at, loss, exact);

        Tape tape;
        Context context = rig.context();
        const Tensor y = experts->forward(context, {x, weighted ? weight : Tensor(), {}, 0, counts}, tape);
        expect_close(y, bank(moe, at, counts, weighted), 1e-5, "y");
        const ExpertsGradient gradient = experts->backward(context, dy, tape);
        rig.expect_gradients(gradient.rows, exact, 1e-5);
        EXPECT_EQ(gradient.weight.defined(), weighted);
        if (weighted) expect_close(gradient.weight, exact.gradients.at("weight"), 1e-5, "d(weight)");
        EXPECT_TRUE(tape.empty());
      }
    }
  }
}

TEST(Experts, APieceOfABankWorksOnItsOwnExperts) {
  const MoeSettings moe = moe_with(true, ops::Activation::silu);
  const auto experts = make_experts(moe, place(), 0, 4);
  LayerRig rig([&](const auto& see) { experts->visit(see); }, 1, 5);
  const Tensor x = random_tensor({5, kWidth}, 1);
  Named<double> at = rig.named();
  at["x"] = to_f64(x);
  Tape tape;
  Context context = rig.context();
  const std::vector<Index> piece = {2, 3};  // of experts 2 and 3
  expect_close(experts->forward(context, {x, {}, {}, 2, piece}, tape), bank(moe, at, {0, 0, 2, 3}, false), 1e-5, "y");
}

TEST(Experts, NoRowsAreAnOrdinaryCase) {
  const MoeSettings moe = moe_with(true, ops::Activation::silu);
  const auto experts = make_experts(moe, place(), 0, 4);
  LayerRig rig([&](const auto& see) { experts->visit(see); }, 1, 1);
  Tape tape;
  Context context = rig.context();
  const std::vector<Index> none = {0, 0, 0, 0};
  const Tensor nothing(cpu(), {0, kWidth});
  EXPECT_EQ(experts->forward(context, {nothing, Tensor(cpu(), {0}), {}, 0, none}, tape).length(), 0);
  EXPECT_EQ(experts->backward(context, nothing, tape).rows.length(), 0);
  for (const auto& [name, gradient] : rig.gradients()) {
    for (const double value : to_f64(gradient)) ASSERT_EQ(value, 0) << name;
  }
}

TEST(Experts, SharedExpertsAreTheLoopWithAndWithoutTheirGate) {
  for (const bool gate : {true, false}) {
    const FeedForwardSettings dense = dense_with(true, ops::Activation::gelu, 7);
    SharedExperts shared(make_dense_bank(dense, place(), "s."), gate ? "g" : "", place());
    LayerRig rig([&](const auto& see) { shared.visit(see); }, 2, 3);
    const Tensor x = random_tensor({6, kWidth}, 1);
    const Tensor dy = random_tensor(x.shape(), 3);
    const auto out = [&](const auto& w) {
      auto y = loops::feed_forward(dense, w, {"s.gate_proj.weight", "s.up_proj.weight", "s.down_proj.weight"}, w.at("x"));
      if (!gate) return y;
      const auto logit = loops::product(w.at("x"), w.at("g"), static_cast<std::size_t>(kWidth));
      for (std::size_t i = 0; i < y.size(); ++i) y[i] = y[i] * loops::sigmoid(logit[i / static_cast<std::size_t>(kWidth)]);
      return y;
    };
    const auto loss = [&](const auto& w) { return pulled(out(w), dy); };
    Named<double> at = rig.named();
    at["x"] = to_f64(x);
    const Differentiated exact = differentiate(at, loss);
    expect_differences(at, loss, exact);
    Tape tape;
    Context context = rig.context();
    expect_close(shared.forward(context, x, tape), out(at), 1e-5, "y");
    rig.expect_gradients(shared.backward(context, dy, tape), exact, 1e-5);
    EXPECT_TRUE(tape.empty());
  }
}

TEST(Experts, ADenseFeedForwardIsTheLoop) {
  const FeedForwardSettings settings = dense_with(false, ops::Activation::relu, 9);
  DenseFeedForward dense(make_dense_bank(settings, place(), "d."));
  LayerRig rig([&](const auto& see) { dense.visit(see); }, 2, 3);
  const Tensor x = random_tensor({6, kWidth}, 1);
  const Tensor dy = random_tensor(x.shape(), 3);
  const auto out = [&](const auto& w) {
    return loops::feed_forward(settings, w, {"", "d.up_proj.weight", "d.down_proj.weight"}, w.at("x"));
  };
  Named<double> at = rig.named();
  at["x"] = to_f64(x);
  Tape tape;
  Context context = rig.context();
  expect_close(dense.forward(context, x, tape), out(at), 1e-5, "y");
  rig.expect_gradients(dense.backward(context, dy, tape), differentiate(at, [&](const auto& w) { return pulled(out(w), dy); }), 1e-5);
}

/// Dropout inside an expert: a value is kept, divided by the probability of staying, or zero; the same rows meet the same draws in backward
/// and however they are grouped.
TEST(Experts, DropoutFallsOnTheSameValuesForwardAndBackward) {
  MoeSettings moe = moe_with(false, ops::Activation::silu);
  moe.expert.dropout = 0.5F;
  const auto experts = make_experts(moe, place(), 0, 4);
  LayerRig rig([&](const auto& see) { experts->visit(see); }, 1, 6);
  const Tensor x = random_tensor({6, kWidth}, 1);
  const Tensor key(cpu(), {6}, DType::i64);
  for (int i = 0; i < 6; ++i) key.data<std::int64_t>()[i] = 100 + i;
  const std::vector<Index> counts = {2, 1, 0, 3};
  const auto run = [&](Pass pass, Tensor* dx) {
    Tape tape;
    Context context = rig.context(pass);
    const Tensor y = experts->forward(context, {x, {}, key, 0, counts}, tape);
    if (dx != nullptr) *dx = experts->backward(context, random_tensor(x.shape(), 3), tape).rows;
    return y;
  };
  Tensor dx;
  const Tensor y = run(Pass::train, &dx);
  expect_same_bits(run(Pass::recompute, nullptr), y, "a repeated pass draws the same");
  EXPECT_GT(relative_error(to_f64(run(Pass::evaluate, nullptr)), to_f64(y)), 0.1) << "an evaluation drops nothing";

  // With the draws fixed the expert is a function like any other: its gradient in x is that of its own values nearby.
  const Tensor pull = random_tensor(x.shape(), 3);
  const auto value = [&] {
    const auto out = to_f64(run(Pass::train, nullptr));
    const auto numbers = to_f64(pull);
    double sum = 0;
    for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * numbers[i];
    return sum;
  };
  std::vector<double> slopes;
  for (Index i = 0; i < x.elements(); ++i) {
    const float was = x.data<float>()[i];
    x.data<float>()[i] = was + 1e-3F;
    const double above = value();
    x.data<float>()[i] = was - 1e-3F;
    slopes.push_back((above - value()) / 2e-3);
    x.data<float>()[i] = was;
  }
  expect_close(dx, slopes, 1e-3, "dx under dropout");
}

}  // namespace
}  // namespace yard
