// Softmax over all experts in f32, then the k largest probabilities: Mixtral, Grok-1 and OLMoE; with k = 1, no normalisation and a
// capacity, Switch (Fedus, Zoph and Shazeer 2021).

#include "core/nn/routing/balance_loss.h"
#include "core/nn/routing/capacity.h"
#include "core/nn/routing/choice.h"
#include "core/nn/routing/gate.h"
#include "core/nn/routing/noise.h"
#include "core/nn/routing/z_loss.h"
#include "core/ops/auxiliary.h"
#include "core/ops/elementwise.h"
#include "core/ops/gating.h"

namespace yard {
namespace {

YARD_PHASE kForward{"router.forward"};
YARD_PHASE kBackward{"router.backward"};

class SoftmaxTopK final : public Router {
 public:
  explicit SoftmaxTopK(const RouterParts& parts)
      : place_(parts.place),
        normalize_(parts.settings.get<bool>("normalize")),
        scale_(parts.settings.number("scale")),
        gate_(gate_matrix(place_)),
        jitter_(place_, parts.settings.number("jitter")),
        capacity_(place_, parts.settings, parts.report),
        balance_(place_, place_.top_k, parts.report),
        z_(place_, parts.report) {}

  Routing forward(Context& context, const Tensor& x, Tape& tape) override {
    const Span span(context.profiler, kForward);
    Stream& stream = context.stream;
    const Tensor seen = jitter_.apply(context, ops::cast(stream, x, DType::f32));
    const auto softmax = ops::softmax(stream, gate_.forward(context, seen));
    const auto best = ops::top_k(stream, softmax.p, place_.top_k);
    const Choices choices = accept_choices(context, place_, best.index);
    balance_.forward(context, choices.counts);
    const Tensor weight = ops::choice_weights(stream, softmax.p, choices.expert, normalize_, scale_);
    const Tensor kept = capacity_.within(context, choices.expert, weight);
    // Backward reads the choices before dropping: dropped choices still count in the normaliser.
    if (context.training()) tape.push(Saved{seen, softmax.p, softmax.log_sum_exp, choices, weight});
    const Index slots = kept.elements();
    Routing routing;
    routing.token = tokens_of_slots(stream, x.rows(), place_.top_k);
    routing.expert = kept.reshaped({slots});
    routing.weight = weight.reshaped({slots});
    routing.chosen = choices.expert.reshaped({slots});
    routing.margin = best.gap;
    return routing;
  }

  Tensor backward(Context& context, const Tensor& dweight, const Tensor& /*dy*/, Tape& tape) override {
    const Span span(context.profiler, kBackward);
    Stream& stream = context.stream;
    const auto saved = tape.pop<Saved>();
    const Tensor dlogits = ops::choice_weights_backward(stream, dweight.reshaped(saved.weight.shape()), saved.p, saved.choices.expert,
                                                        saved.weight, normalize_, scale_);
    const Tensor coefficients = balance_.backward(context, saved.p, saved.choices.counts);
    const float z = z_.backward(context, saved.log_sum_exp);
    ops::add_auxiliary_gradient(stream, saved.p, saved.log_sum_exp, context.tokens.ids, coefficients, z, dlogits);
    return jitter_.apply(context, gate_.backward(context, dlogits, saved.x));
  }

  void visit(const std::function<void(Parameter&)>& visitor) override { visitor(gate_.parameter()); }
  bool sees_later_tokens() const noexcept override { return capacity_.sees_later_tokens(); }
  RouterCost cost() const override {
    const auto k = static_cast<double>(place_.top_k);
    RouterCost cost;
    cost.slots_per_token = k;
    cost.parameters = gate_.parameter().shape.elements();
    cost.matmuls = {gate_.matmul("")};
    // The row and the probabilities in f32, and the log-sum-exp; choices and weights; with a capacity, the choices a second time.
    cost.saved_bytes_per_token = 4 * (static_cast<double>(place_.width + place_.experts) + 1 + (capacity_.drops() ? 3 : 2) * k);
    return cost;
  }

 private:
  struct Saved {
    Tensor x;  // f32, jittered
    Tensor p, log_sum_exp;
    Choices choices;
    Tensor weight;
  };
  RouterPlace place_;
  bool normalize_;  // whether a token's weights are divided by their sum (Mixtral)
  float scale_;     // multiplies the weights
  Linear gate_;
  Jitter jitter_;
  Capacity capacity_;
  BalanceLoss balance_;
  ZLoss z_;
};

void rules(Settings& settings, const RouterFacts& facts) {
  normalize_rules(settings, facts);
  Capacity::rules(settings, facts);
}

}  // namespace

RouterKind softmax_top_k_router() {
  return {"softmax_top_k", joined({"normalize", "scale", "jitter"}, Capacity::fields()), rules,
          [](const RouterParts& parts) { return std::make_unique<SoftmaxTopK>(parts); }};
}

}  // namespace yard
