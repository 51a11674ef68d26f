#include "core/nn/experts.h"

#include <algorithm>

#include "core/ops/elementwise.h"
#include "core/ops/routing.h"
#include "core/random.h"

namespace yard {
namespace {

YARD_PHASE kForward{"experts.forward"};
YARD_PHASE kBackward{"experts.backward"};

Parameter first_matrices(const FeedForwardSettings& settings, const ModulePlace& place, ParamKind kind,
                         const std::vector<FeedForwardNames>& names) {
  const Index experts = static_cast<Index>(names.size());
  const Index each = settings.gated ? 2 * settings.hidden : settings.hidden;
  Parameter fused = Parameter::whole(names.front().up, {experts * each, place.width}, place.init);
  fused.kind = kind;
  if (kind == ParamKind::expert) fused.rate = RateClass::expert;
  fused.slices.clear();
  for (Index e = 0; e < experts; ++e) {
    const auto& name = names[static_cast<std::size_t>(e)];
    if (settings.gated) fused.slices.push_back({name.gate, e * each, settings.hidden});
    fused.slices.push_back({name.up, e * each + each - settings.hidden, settings.hidden});
  }
  return fused;
}

Parameter down_matrices(const FeedForwardSettings& settings, const ModulePlace& place, ParamKind kind,
                        const std::vector<FeedForwardNames>& names) {
  const Index experts = static_cast<Index>(names.size());
  Parameter fused = Parameter::whole(names.front().down, {experts * place.width, settings.hidden}, place.residual_init);
  fused.kind = kind;
  if (kind == ParamKind::expert) fused.rate = RateClass::expert;
  fused.slices.clear();
  for (Index e = 0; e < experts; ++e) fused.slices.push_back({names[static_cast<std::size_t>(e)].down, e * place.width, place.width});
  return fused;
}

}  // namespace

FeedForwardExperts::FeedForwardExperts(const FeedForwardSettings& settings, const ModulePlace& place, ParamKind kind,
                                       const std::vector<FeedForwardNames>& names, Index first_expert)
    : settings_(settings),
      layer_(place.layer),
      experts_(static_cast<Index>(names.size())),
      first_expert_(first_expert),
      in_(first_matrices(settings, place, kind, names), experts_),
      down_(down_matrices(settings, place, kind, names), experts_) {}

Tensor FeedForwardExperts::forward(Context& context, const ExpertRows& input, Tape& tape) {
  const Span span(context.profiler, kForward);
  std::vector<Index> counts(static_cast<std::size_t>(experts_), 0);
  std::copy(input.rows_per_expert.begin(), input.rows_per_expert.end(), counts.begin() + input.first_expert);
  const Tensor z = in_.forward(context, input.rows, counts);
  Tensor h = ops::activate(context.stream, z, input.weight, settings_.activation, settings_.gated);
  if (settings_.dropout > 0 && context.training()) h = drop(context, h, input.key, counts);
  Tensor y = down_.forward(context, h, counts);
  if (context.training()) tape.push(Saved{input.rows, input.weight, input.key, z, h, std::move(counts)});
  return y;
}

ExpertsGradient FeedForwardExperts::backward(Context& context, const Tensor& dy, Tape& tape) {
  const Span span(context.profiler, kBackward);
  const auto saved = tape.pop<Saved>();
  Tensor dh = down_.backward(context, dy, saved.h, saved.counts);
  if (settings_.dropout > 0) dh = drop(context, dh, saved.key, saved.counts);
  auto gradient = ops::activate_backward(context.stream, dh, saved.z, saved.weight, settings_.activation, settings_.gated);
  return {in_.backward(context, gradient.dz, saved.rows, saved.counts), gradient.dweight};
}

/// Keyed by (seed, step, layer, global expert, token), so that the same values fall whichever rank owns the expert.
Tensor FeedForwardExperts::drop(Context& context, const Tensor& h, const Tensor& key, std::span<const Index> counts) const {
  Tensor dropped(context.stream, h.shape(), h.dtype());
  Index first = 0;
  for (Index e = 0; e < experts_; ++e) {
    const Index rows = counts[static_cast<std::size_t>(e)];
    const std::uint64_t noise = key_of(context.seed, key_of("expert_dropout"), context.step, layer_, first_expert_ + e);
    ops::copy_into(context.stream,
                   ops::dropout(context.stream, h.row_range(first, rows), settings_.dropout, noise, key.row_range(first, rows), h.dtype()),
                   dropped.row_range(first, rows));
    first += rows;
  }
  return dropped;
}

void FeedForwardExperts::visit(const std::function<void(Parameter&)>& see) {
  see(in_.parameter());
  see(down_.parameter());
}

void FeedForwardExperts::visit_costs(const ExpertsUse& use, const CostVisitor& visitor) const {
  Cost cost;
  cost.part = use.part;
  cost.parameters = (in_.parameter().shape.elements() + down_.parameter().shape.elements()) / experts_ * use.experts;
  cost.active = static_cast<double>(cost.parameters) / static_cast<double>(use.experts) * use.rows;
  cost.spread = in_.parameter().kind == ParamKind::expert;
  cost.matmuls = {in_.matmul("up"), down_.matmul("down")};
  for (MatmulCost& matmul : cost.matmuls) {
    matmul.groups = use.experts;
    matmul.rows = use.rows;
  }
  // The rows, z and h.
  cost.saved.values = use.rows * static_cast<double>(cost.matmuls[0].in + cost.matmuls[0].out + cost.matmuls[1].in);
  cost.saved.fixed = use.rows * use.row_bytes;
  visitor(cost);
}

Tensor DenseFeedForward::forward(Context& context, const Tensor& x, Tape& tape) {
  const Index rows = x.rows();
  return bank_->forward(context, {x, {}, context.training() ? row_keys(context) : Tensor(), 0, {&rows, 1}}, tape);
}

Tensor DenseFeedForward::backward(Context& context, const Tensor& dy, Tape& tape) { return bank_->backward(context, dy, tape).rows; }

void DenseFeedForward::visit(const std::function<void(Parameter&)>& see) { bank_->visit(see); }

void DenseFeedForward::visit_costs(const CostVisitor& visitor) const {
  bank_->visit_costs({ModelPart::feed_forward, 1, 1, sizeof(std::int64_t)}, visitor);
}

SharedExperts::SharedExperts(std::unique_ptr<Experts> bank, const std::string& gate_name, const ModulePlace& place)
    : bank_(std::move(bank)) {
  if (gate_name.empty()) return;
  Parameter gate = Parameter::whole(gate_name, {1, place.width}, place.init);
  gate.full_precision = true;
  gate_ = std::make_unique<Linear>(std::move(gate));
}

Tensor SharedExperts::forward(Context& context, const Tensor& x, Tape& tape) {
  const Index rows = x.rows();
  Tensor weight;
  if (gate_) {
    const Tensor wide = ops::cast(context.stream, x, DType::f32);
    weight = ops::sigmoid(context.stream, gate_->forward(context, wide).reshaped({rows}));
    if (context.training()) tape.push(Saved{wide, weight});
  }
  return bank_->forward(context, {x, weight, context.training() ? row_keys(context) : Tensor(), 0, {&rows, 1}}, tape);
}

Tensor SharedExperts::backward(Context& context, const Tensor& dy, Tape& tape) {
  auto gradient = bank_->backward(context, dy, tape);
  if (!gate_) return gradient.rows;
  const auto saved = tape.pop<Saved>();
  const Tensor dlogit = ops::sigmoid_backward(context.stream, gradient.weight, saved.gate).reshaped({saved.x.rows(), 1});
  return ops::add(context.stream, gradient.rows, gate_->backward(context, dlogit, saved.x), gradient.rows.dtype());
}

void SharedExperts::visit(const std::function<void(Parameter&)>& see) {
  bank_->visit(see);
  if (gate_) see(gate_->parameter());
}

void SharedExperts::visit_costs(const CostVisitor& visitor) const {
  const double weight_bytes = gate_ ? sizeof(float) : 0;
  bank_->visit_costs({ModelPart::shared, 1, 1, sizeof(std::int64_t) + weight_bytes}, visitor);
  if (!gate_) return;
  Cost cost;
  cost.part = ModelPart::shared;
  cost.parameters = gate_->parameter().shape.elements();
  cost.active = static_cast<double>(cost.parameters);
  cost.matmuls = {gate_->matmul("gate")};
  cost.saved.fixed = 4 * static_cast<double>(cost.matmuls[0].in);  // the row in f32
  visitor(cost);
}

Tensor row_keys(Context& context) {
  const Tokens& tokens = context.tokens;
  Tensor keys(context.stream, {tokens.rows()}, DType::i64);
  ops::count_up(context.stream, keys, tokens.first_sequence * tokens.length);
  return keys;
}

}  // namespace yard
