// DeepSeek-V3 (arXiv 2412.19437, section 2.1.2): sigmoid scores; a selection bias that gets no gradient and moves towards balance once per
// global batch; groups of experts, of which a token may use only the best; weights from the unbiased scores.

#include <optional>

#include "core/nn/routing/balance_loss.h"
#include "core/nn/routing/capacity.h"
#include "core/nn/routing/choice.h"
#include "core/nn/routing/gate.h"
#include "core/nn/routing/z_loss.h"
#include "core/ops/auxiliary.h"
#include "core/ops/elementwise.h"
#include "core/ops/gating.h"
#include "core/ops/selection.h"

namespace yard {
namespace {

YARD_PHASE kForward{"router.forward"};
YARD_PHASE kBackward{"router.backward"};

class SigmoidTopK final : public Router {
 public:
  explicit SigmoidTopK(const RouterParts& parts)
      : place_(parts.place),
        normalize_(parts.settings.get<bool>("normalize")),
        scale_(parts.settings.number("scale")),
        groups_(parts.settings.get<Index>("groups")),
        group_top_k_(parts.settings.get<Index>("group_top_k")),
        bias_rate_(parts.settings.number("bias_rate")),
        gate_(gate_matrix(place_)),
        bias_{place_.name + "gate.e_score_correction_bias", Tensor::zeros(parts.stream, {place_.experts}, DType::f32)},
        capacity_(place_, parts.settings, parts.report),
        balance_(place_, place_.top_k, parts.report),
        reported_bias_(parts.report.per_expert_replicated("selection_bias", place_.experts)) {
    if (place_.losses.z > 0) z_.emplace(place_, parts.report);
  }

  Routing forward(Context& context, const Tensor& x, Tape& tape) override {
    const Span span(context.profiler, kForward);
    Stream& stream = context.stream;
    const Tensor seen = ops::cast(stream, x, DType::f32);
    const Tensor logits = gate_.forward(context, seen);
    const Tensor scores = ops::sigmoid(stream, logits);
    const auto limited = ops::limit_groups(stream, scores, bias_.value, groups_, group_top_k_);
    const auto best = ops::top_k(stream, limited.scores, place_.top_k);
    ops::lower_to(stream, limited.margin, best.gap);
    const Choices choices = accept_choices(context, place_, best.index);
    Tensor loss_counts = choices.counts;
    if (context.training() && context.choice_override == nullptr)
      loss_counts = count_choices(context, place_, ops::top_k(stream, scores, place_.top_k).index);
    balance_.forward(context, loss_counts);
    const Tensor weight = ops::choice_weights(stream, scores, choices.expert, normalize_, scale_);
    const Tensor kept = capacity_.within(context, choices.expert, weight);
    if (context.pass == Pass::train && context.micro == 0) ops::add_to_report(stream, bias_.value, reported_bias_.values());
    if (context.training()) tape.push(Saved{seen, z_ ? logits : Tensor(), scores, choices.expert, loss_counts, weight});
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
    const Tensor dscores = ops::choice_scores_backward(stream, dweight.reshaped(saved.weight.shape()), saved.scores, saved.expert,
                                                       saved.weight, normalize_, scale_);
    const auto probability = ops::normalize_rows(stream, saved.scores);  // the probabilities of DeepSeek's balance loss
    const Tensor coefficients = balance_.backward(context, probability.q, saved.loss_counts);
    if (coefficients.defined()) ops::add_normalized_gradient(stream, probability, context.tokens.ids, coefficients, dscores);
    const Tensor dlogits = ops::sigmoid_backward(stream, dscores, saved.scores);
    if (z_) {
      const auto softmax = ops::softmax(stream, saved.logits);
      const float z = z_->backward(context, softmax.log_sum_exp);
      ops::add_auxiliary_gradient(stream, softmax.p, softmax.log_sum_exp, context.tokens.ids, {}, z, dlogits);
    }
    return gate_.backward(context, dlogits, saved.x);
  }

  void after_step(Context& context, bool skipped) override {
    if (skipped || bias_rate_ == 0) return;
    check(context.totals != nullptr, "the selection bias needs the routing totals of the step");
    ops::step_selection_bias(context.stream, context.totals->step_layer(place_.moe_layer), bias_rate_, bias_.value);
  }

  void visit(const std::function<void(Parameter&)>& visitor) override { visitor(gate_.parameter()); }
  void visit_state(const std::function<void(State&)>& visitor) override { visitor(bias_); }
  bool sees_later_tokens() const noexcept override { return capacity_.sees_later_tokens(); }
  RouterCost cost() const override {
    const auto k = static_cast<double>(place_.top_k);
    RouterCost cost;
    cost.slots_per_token = k;
    cost.parameters = gate_.parameter().shape.elements();
    cost.matmuls = {gate_.matmul("")};
    cost.state_bytes = static_cast<Index>(bias_.value.bytes());
    // The row in f32, the scores, and the logits for the z-loss; choices and weights; with a capacity, the choices a second time.
    cost.saved_bytes_per_token = 4 * (static_cast<double>(place_.width + (z_ ? 2 : 1) * place_.experts) + (capacity_.drops() ? 3 : 2) * k);
    return cost;
  }

 private:
  struct Saved {
    Tensor x;       // f32
    Tensor logits;  // only for the z-loss
    Tensor scores;
    Tensor expert;       // before dropping
    Tensor loss_counts;  // by sequence, of the scores without bias and group limits
    Tensor weight;
  };
  RouterPlace place_;
  bool normalize_;
  float scale_;
  Index groups_, group_top_k_;
  float bias_rate_;
  Linear gate_;
  State bias_;
  Capacity capacity_;
  BalanceLoss balance_;
  std::optional<ZLoss> z_;
  Reported reported_bias_;
};

void rules(Settings& settings, const RouterFacts& facts) {
  normalize_rules(settings, facts);
  Capacity::rules(settings, facts);
  const auto groups = settings.get<Index>("groups");
  check_input(facts.experts % groups == 0, "model.experts is ", facts.experts, ", which ", settings.path("groups"), " ", groups,
              " does not divide: it may be ", divisors_text(facts.experts));
  settings.fill("group_top_k", groups);
  const auto kept = settings.get<Index>("group_top_k");
  check_input(kept <= groups, "", settings.path("group_top_k"), " is ", kept, ", more than the ", settings.path("groups"), " ", groups);
  check_input(facts.top_k <= kept * (facts.experts / groups), "model.top_k is ", facts.top_k, ", but ", settings.path("group_top_k"), " ",
              kept, " leaves a token only ", kept * (facts.experts / groups), " of the experts: raise it, or lower ",
              settings.path("groups"));
}

}  // namespace

RouterKind sigmoid_top_k_router() {
  return {"sigmoid_top_k", joined({"normalize", "scale", "groups", "group_top_k", "bias_rate"}, Capacity::fields()), rules,
          [](const RouterParts& parts) { return std::make_unique<SigmoidTopK>(parts); }};
}

}  // namespace yard
