#include "core/nn/attention.h"

#include "core/nn/kv_cache.h"
#include "tests/support/layer_rig.h"
#include "tests/support/loops.h"

namespace yard {
namespace {

using namespace test;

constexpr Index kWidth = 10;

AttentionSettings settings_with(Index heads, Index kv_heads, float scale, float cap, QkNorm qk_norm = QkNorm::none) {
  AttentionSettings settings;
  settings.heads = heads;
  settings.kv_heads = kv_heads;
  settings.head_width = 6;
  settings.scale = scale;
  settings.cap = cap;
  settings.rope_base = 100;
  settings.qk_norm = qk_norm;
  settings.norm_epsilon = 0.01F;
  return settings;
}

ModulePlace place() {
  ModulePlace here;
  here.width = kWidth;
  return here;
}

struct Case {
  AttentionSettings settings;
  Index sequences, length;
  std::vector<int> positions;  // empty: each sequence counts from 0
};

std::vector<Case> cases() {
  return {{settings_with(4, 2, 0.4F, 0), 2, 7, {}},
          {settings_with(2, 2, 1, 1.5F), 1, 5, {}},
          {settings_with(4, 2, 0.4F, 0, QkNorm::width), 2, 5, {}},
          {settings_with(3, 1, 0.3F, 0), 2, 6, {0, 1, 0, 1, 2, 3, 0, 0, 1, 2, 0, 1}}};
}

TEST(AttentionModule, IsTheLoopForwardAndBackward) {
  for (const Case& c : cases()) {
    Attention attention(c.settings, place(), "a.");
    LayerRig rig([&](const auto& see) { attention.visit(see); }, c.sequences, c.length);
    if (!c.positions.empty()) rig.tokens.positions = tensor_of({rig.tokens.rows()}, c.positions);
    std::vector<int> positions;
    for (const double at : to_f64(rig.tokens.positions)) positions.push_back(static_cast<int>(at));
    const Tensor x = random_tensor({rig.tokens.rows(), kWidth}, 1);
    const Tensor dy = random_tensor(x.shape(), 2);
    const auto out = [&](const auto& w) { return loops::attention(c.settings, w, "a.", w.at("x"), positions); };
    const auto loss = [&](const auto& w) {
      auto y = out(w);
      auto sum = y[0] * 0.0;
      const auto pull = to_f64(dy);
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * pull[i];
      return sum;
    };
    Named<double> at = rig.named();
    at["x"] = to_f64(x);
    const Differentiated exact = differentiate(at, loss);
    expect_differences(at, loss, exact);

    Tape tape;
    Context context = rig.context();
    expect_close(attention.forward(context, x, tape), out(at), 1e-5, "y");
    const Tensor dx = attention.backward(context, dy, tape);
    EXPECT_TRUE(tape.empty());
    rig.expect_gradients(dx, exact, 1e-5);
  }
}

TEST(AttentionModule, WithACacheItAnswersAsWithout) {
  for (const QkNorm qk_norm : {QkNorm::none, QkNorm::width}) {
    const AttentionSettings settings = settings_with(4, 2, 0.4F, 0, qk_norm);
    Attention attention(settings, place(), "a.");
    LayerRig whole([&](const auto& see) { attention.visit(see); }, 2, 6);
    const Tensor x = random_tensor({12, kWidth}, 1);
    Tape tape;
    Context context = whole.context(Pass::evaluate);
    const auto expected = to_f64(attention.forward(context, x, tape));
    EXPECT_TRUE(tape.empty()) << "an evaluation keeps nothing";

    KeyValueCache cache(cpu(), {settings.shape()}, 2, 6, DType::f32);
    for (Index at = 0; at < 6; ++at) {
      Tokens tokens;
      tokens.sequences = 2;
      tokens.length = 1;
      tokens.cache = &cache;
      tokens.ids = Tensor::zeros(cpu(), {2}, DType::i32);
      tokens.positions = tensor_of({2}, std::vector<int>{static_cast<int>(at), static_cast<int>(at)});
      for (int s = 0; s < 2; ++s) cache.before().data<std::int32_t>()[s] = static_cast<std::int32_t>(at);
      Tensor rows(cpu(), {2, kWidth});
      std::vector<double> want;
      for (Index s = 0; s < 2; ++s) {
        for (Index c = 0; c < kWidth; ++c) {
          rows.data<float>()[s * kWidth + c] = x.data<float>()[(s * 6 + at) * kWidth + c];
          want.push_back(expected[static_cast<std::size_t>((s * 6 + at) * kWidth + c)]);
        }
      }
      Context step{cpu(), whole.profiler, tokens, Pass::evaluate};
      expect_close(attention.forward(step, rows, tape), want, 1e-5, "row " + std::to_string(at));
    }
  }
}

}  // namespace
}  // namespace yard
