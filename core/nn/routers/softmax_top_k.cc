#include "core/nn/routers/softmax_top_k.h"

#include <algorithm>
#include <cmath>

#include "core/nn/experts.h"
#include "core/ops/elementwise.h"
#include "core/ops/gating.h"
#include "core/random.h"

namespace yard {
namespace {

YARD_PHASE kForward{"router.forward"};
YARD_PHASE kBackward{"router.backward"};

Parameter gate_matrix(const RouterPlace& place) {
  Parameter gate = Parameter::whole(place.name + "gate.weight", {place.experts, place.width}, Init::normal(place.deviation));
  gate.full_precision = true;
  gate.rate = RateClass::router;
  return gate;
}

}  // namespace

SoftmaxTopK::SoftmaxTopK(const RouterPlace& place, const SoftmaxTopKSettings& settings)
    : place_(place), settings_(settings), gate_(gate_matrix(place)) {
  check_input(place.top_k >= 1 && place.top_k <= place.experts, "model.top_k must be between 1 and model.experts (", place.experts,
              "), got ", place.top_k);
}

std::uint64_t SoftmaxTopK::noise_key(const Context& context, std::string_view what) const {
  return key_of(context.seed, key_of(what), context.step, place_.layer);
}

Routing SoftmaxTopK::forward(Context& context, const Tensor& x, Tape& tape, RouterReport& report) {
  const Span span(context.profiler, kForward);
  Stream& stream = context.stream;
  const Tokens& tokens = context.tokens;
  const bool training = context.training();
  Tensor seen = ops::cast(stream, x, DType::f32);
  if (settings_.jitter > 0 && training) seen = ops::jitter(stream, seen, settings_.jitter, noise_key(context, "jitter"), row_keys(context));
  const auto softmax = ops::softmax(stream, gate_.forward(context, seen));
  auto best = ops::top_k(stream, softmax.p, place_.top_k);
  if (settings_.forced != ForcedRouting::natural) {
    const float skew = settings_.forced == ForcedRouting::skewed ? settings_.skew : 0;
    best.index = ops::forced_choice(stream, row_keys(context), place_.experts, place_.top_k, skew, key_of(context.seed, key_of("forced")));
  }
  const Tensor weight = ops::choice_weights(stream, softmax.p, best.index, settings_.normalize, settings_.scale);
  ops::mask_padding(stream, tokens.ids, best.index);
  const Tensor counts = ops::count_by_sequence(stream, best.index, tokens.length, place_.experts);
  if (context.pass == Pass::train) {
    if (context.totals != nullptr) ops::add_counts(stream, ops::sum_over_layers(stream, counts), context.totals->layer(place_.moe_layer));
    ops::add_router_report(stream, softmax.p, softmax.log_sum_exp, tokens.ids, counts, tokens.length, place_.top_k, report.sums);
    if (context.log != nullptr) context.log->record(context, place_.moe_layer, best.index, best.gap);
  }
  const Tensor kept = within_capacity(context, best.index, weight, report);
  // Backward reads the choices before dropping: a dropped one still has its part in the sum that its token's weights were divided by.
  if (training) tape.push(Saved{seen, softmax.p, softmax.log_sum_exp, best.index, weight, counts, x.dtype()});
  const Index slots = kept.elements();
  return {tokens_of_slots(stream, x.rows(), place_.top_k), kept.reshaped({slots}), weight.reshaped({slots}), {}};
}

/// The choices, those beyond an expert's capacity as -1.                                                               (N, K) i32
Tensor SoftmaxTopK::within_capacity(Context& context, const Tensor& choice, const Tensor& weight, RouterReport& report) const {
  const double factor = context.training() ? settings_.capacity_factor : settings_.evaluation_capacity;
  if (factor <= 0) return choice;
  const Tokens& tokens = context.tokens;
  const Index group = tokens.length * (context.training() ? settings_.group_sequences : 1);
  const double even = static_cast<double>(place_.top_k * group) / static_cast<double>(place_.experts);
  const Index capacity = std::max<Index>(4, static_cast<Index>(std::ceil(factor * even)));
  // A recomputed pass drops the same choices and must not report them twice.
  const Tensor drops = context.pass == Pass::train ? report.drops : Tensor::zeros(context.stream, {8}, DType::i64);
  Tensor kept(context.stream, choice.shape(), choice.dtype());
  ops::copy_into(context.stream, choice, kept);
  ops::drop_over_capacity(context.stream, kept, weight, place_.experts, group, tokens.length, capacity, settings_.drop,
                          drops.row_range(0, 4), drops.row_range(4, 4));
  return kept;
}

/// What each expert's probability is worth to the balance loss of this rank's tokens: a row for every sequence, or one row for all.
Tensor SoftmaxTopK::balance_coefficients(Context& context, const Tensor& counts_by_sequence) const {
  const LossSettings& losses = settings_.losses;
  if (losses.balance == 0) return {};
  const Tokens& tokens = context.tokens;
  const double experts = static_cast<double>(place_.experts);
  const double k = static_cast<double>(place_.top_k);
  const double micros = static_cast<double>(context.micros);
  const double length = static_cast<double>(tokens.length);
  const double sequences = static_cast<double>(tokens.sequences_everywhere);
  const double everywhere = length * sequences;
  if (losses.convention == LossSettings::Convention::huggingface) {  // the rows of all layers are pooled before the product
    check(context.totals != nullptr, "the balance loss needs the routing totals of the micro-step");
    const double pooled = static_cast<double>(place_.moe_layers) * everywhere;
    return ops::scaled_counts(context.stream, ops::sum_over_layers(context.stream, context.totals->micro()),
                              losses.balance * experts / (pooled * pooled * micros));
  }
  if (losses.scope == LossSettings::Scope::sequence) {
    return ops::scaled_counts(context.stream, counts_by_sequence, losses.balance * experts / (k * length * length * micros * sequences));
  }
  check(context.totals != nullptr, "the balance loss needs the routing totals of the micro-step");
  return ops::scaled_counts(context.stream, context.totals->layer(place_.moe_layer).reshaped({1, place_.experts}),
                            losses.balance * experts / (k * everywhere * everywhere * micros));
}

Tensor SoftmaxTopK::backward(Context& context, const Tensor& dweight, const Tensor& /*dself*/, Tape& tape) {
  const Span span(context.profiler, kBackward);
  Stream& stream = context.stream;
  const auto saved = tape.pop<Saved>();
  const Tensor dlogits = ops::choice_weights_backward(stream, dweight.reshaped(saved.choice.shape()), saved.p, saved.choice, saved.weight,
                                                      settings_.normalize, settings_.scale);
  const double everywhere = static_cast<double>(context.tokens.length * context.tokens.sequences_everywhere);
  const auto z = static_cast<float>(settings_.losses.z / (everywhere * static_cast<double>(context.micros)));
  ops::add_auxiliary_gradient(stream, saved.p, saved.log_sum_exp, context.tokens.ids, balance_coefficients(context, saved.counts), z,
                              dlogits);
  Tensor dx = gate_.backward(context, dlogits, saved.x);
  if (settings_.jitter > 0) dx = ops::jitter(stream, dx, settings_.jitter, noise_key(context, "jitter"), row_keys(context));
  return dx;
}

RouterCost SoftmaxTopK::cost() const {
  RouterCost cost;
  const auto k = static_cast<double>(place_.top_k);
  cost.slots_per_token = k;
  cost.parameters = gate_.parameter().shape.elements();
  cost.matmuls = {gate_.matmul("")};
  // The row and the probabilities in f32, their log-sum-exp; choices and weights, and once more choices where some are dropped.
  cost.saved_bytes_per_token = 4 * (static_cast<double>(place_.width + place_.experts) + 1 + 2 * k);
  if (settings_.capacity_factor > 0) cost.saved_bytes_per_token += 4 * k;
  return cost;
}

void SoftmaxTopK::visit(const std::function<void(Parameter&)>& see) { see(gate_.parameter()); }

}  // namespace yard
