#include "core/nn/experts.h"

#include <algorithm>

#include "core/ops/elementwise.h"
#include "core/ops/routing.h"
#include "core/random.h"

namespace yard {
namespace {

YARD_PHASE kForward{"experts.forward"};
YARD_PHASE kBackward{"experts.backward"};

Parameter first_matrices(const FeedForwardShape& shape, const std::vector<FeedForwardNames>& names) {
  const Index experts = static_cast<Index>(names.size());
  const Index each = shape.gated ? 2 * shape.hidden : shape.hidden;
  Parameter fused = Parameter::whole(names.front().up, {experts * each, shape.width}, Init::normal(shape.deviation));
  fused.kind = shape.kind;
  if (shape.kind == ParamKind::expert) fused.rate = RateClass::expert;
  fused.slices.clear();
  for (Index e = 0; e < experts; ++e) {
    const auto& name = names[static_cast<std::size_t>(e)];
    if (shape.gated) fused.slices.push_back({name.gate, e * each, shape.hidden});
    fused.slices.push_back({name.up, e * each + each - shape.hidden, shape.hidden});
  }
  return fused;
}

Parameter down_matrices(const FeedForwardShape& shape, const std::vector<FeedForwardNames>& names) {
  const Index experts = static_cast<Index>(names.size());
  Parameter fused = Parameter::whole(names.front().down, {experts * shape.width, shape.hidden}, shape.residual);
  fused.kind = shape.kind;
  if (shape.kind == ParamKind::expert) fused.rate = RateClass::expert;
  fused.slices.clear();
  for (Index e = 0; e < experts; ++e) fused.slices.push_back({names[static_cast<std::size_t>(e)].down, e * shape.width, shape.width});
  return fused;
}

}  // namespace

FeedForwardExperts::FeedForwardExperts(const FeedForwardShape& shape, const std::vector<FeedForwardNames>& names, Index first_expert)
    : shape_(shape),
      experts_(static_cast<Index>(names.size())),
      first_expert_(first_expert),
      in_(first_matrices(shape, names), experts_),
      down_(down_matrices(shape, names), experts_) {}

Tensor FeedForwardExperts::forward(Context& context, const ExpertRows& input, Tape& tape) {
  const Span span(context.profiler, kForward);
  std::vector<Index> counts(static_cast<std::size_t>(experts_), 0);
  std::copy(input.rows_per_expert.begin(), input.rows_per_expert.end(), counts.begin() + input.first_expert);
  const Tensor z = in_.forward(context, input.rows, counts);
  Tensor h = ops::activate(context.stream, z, input.weight, shape_.activation, shape_.gated);
  if (shape_.dropout > 0 && context.training()) h = drop(context, h, input.key, counts);
  Tensor y = down_.forward(context, h, counts);
  if (context.training()) tape.push(Saved{input.rows, input.weight, input.key, z, h, std::move(counts)});
  return y;
}

ExpertsGradient FeedForwardExperts::backward(Context& context, const Tensor& dy, Tape& tape) {
  const Span span(context.profiler, kBackward);
  const auto saved = tape.pop<Saved>();
  Tensor dh = down_.backward(context, dy, saved.h, saved.counts);
  if (shape_.dropout > 0) dh = drop(context, dh, saved.key, saved.counts);
  auto gradient = ops::activate_backward(context.stream, dh, saved.z, saved.weight, shape_.activation, shape_.gated);
  return {in_.backward(context, gradient.dz, saved.rows, saved.counts), gradient.dweight};
}

/// Keyed by (seed, step, layer, global expert, token), so that the same values fall whichever rank owns the expert.
Tensor FeedForwardExperts::drop(Context& context, const Tensor& h, const Tensor& key, std::span<const Index> counts) const {
  Tensor dropped(context.stream, h.shape(), h.dtype());
  Index first = 0;
  for (Index e = 0; e < experts_; ++e) {
    const Index rows = counts[static_cast<std::size_t>(e)];
    const std::uint64_t noise = key_of(context.seed, key_of("expert_dropout"), context.step, shape_.layer, first_expert_ + e);
    ops::copy_into(context.stream,
                   ops::dropout(context.stream, h.row_range(first, rows), shape_.dropout, noise, key.row_range(first, rows), h.dtype()),
                   dropped.row_range(first, rows));
    first += rows;
  }
  return dropped;
}

void FeedForwardExperts::visit(const std::function<void(Parameter&)>& see) {
  see(in_.parameter());
  see(down_.parameter());
}

Tensor DenseFeedForward::forward(Context& context, const Tensor& x, Tape& tape) {
  const Index rows = x.rows();
  return bank_->forward(context, {x, {}, context.training() ? row_keys(context) : Tensor(), 0, {&rows, 1}}, tape);
}

Tensor DenseFeedForward::backward(Context& context, const Tensor& dy, Tape& tape) { return bank_->backward(context, dy, tape).rows; }

void DenseFeedForward::visit(const std::function<void(Parameter&)>& see) { bank_->visit(see); }

SharedExperts::SharedExperts(std::unique_ptr<Experts> bank, const std::string& gate_name, Index width, float deviation)
    : bank_(std::move(bank)) {
  if (gate_name.empty()) return;
  Parameter gate = Parameter::whole(gate_name, {1, width}, Init::normal(deviation));
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

Tensor row_keys(Context& context) {
  const Tokens& tokens = context.tokens;
  Tensor keys(context.stream, {tokens.rows()}, DType::i64);
  ops::count_up(context.stream, keys, tokens.first_sequence * tokens.length);
  return keys;
}

}  // namespace yard
