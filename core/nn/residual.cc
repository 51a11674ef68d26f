#include "core/nn/transformer.h"
#include "core/ops/elementwise.h"
#include "core/ops/norm.h"
#include "core/random.h"

namespace yard {

namespace {

YARD_PHASE kForward{"norm.forward"};
YARD_PHASE kBackward{"norm.backward"};

}  // namespace

Residual::Residual(Settings settings, std::unique_ptr<Module> inner)
    : settings_(std::move(settings)),
      norm_(Parameter::vector(settings_.norm_name, settings_.width, Init::ones())),
      post_norm_(Parameter::vector(settings_.post_norm_name, settings_.width, Init::ones())),
      inner_(std::move(inner)) {}

std::uint64_t Residual::noise_key(const Context& context) const {
  return key_of(context.seed, key_of("dropout"), context.step, settings_.key);
}

Tensor Residual::forward(Context& context, const Tensor& x, Tape& tape) {
  Stream& stream = context.stream;
  Saved saved{x, {}, {}, {}};
  Tensor normed;
  {
    const Span span(context.profiler, kForward);
    auto out = ops::rms_norm(stream, x, norm_.value, settings_.epsilon, settings_.compute);
    normed = out.y;
    saved.rstd = out.rstd;
  }
  Tensor y = inner_->forward(context, normed, tape);
  const Span span(context.profiler, kForward);
  if (!post_norm_.name.empty()) {
    auto out = ops::rms_norm(stream, y, post_norm_.value, settings_.epsilon, settings_.compute);
    saved.branch = y;
    saved.post_rstd = out.rstd;
    y = out.y;
  }
  if (settings_.dropout > 0 && context.training()) {
    y = ops::dropout(stream, y, settings_.dropout, noise_key(context), row_keys(context), y.dtype());
  }
  Tensor sum = ops::add(stream, x, y, settings_.f32_residual ? DType::f32 : settings_.compute);
  if (context.training()) tape.push(std::move(saved));
  return sum;
}

Tensor Residual::backward(Context& context, const Tensor& dy, Tape& tape) {
  Stream& stream = context.stream;
  const auto saved = tape.pop<Saved>();
  Tensor dbranch;
  {
    const Span span(context.profiler, kBackward);
    dbranch = ops::cast(stream, dy, settings_.compute);
    if (settings_.dropout > 0) {
      dbranch = ops::dropout(stream, dbranch, settings_.dropout, noise_key(context), row_keys(context), settings_.compute);
    }
    if (!post_norm_.name.empty()) {
      dbranch = ops::cast(stream, ops::rms_norm_backward(stream, dbranch, saved.branch, post_norm_.value, saved.post_rstd, post_norm_.grad),
                          settings_.compute);
    }
  }
  const Tensor dnormed = inner_->backward(context, dbranch, tape);
  const Span span(context.profiler, kBackward);
  return ops::rms_norm_backward(stream, dnormed, saved.x, norm_.value, saved.rstd, norm_.grad, dy);
}

void Residual::visit(const std::function<void(Parameter&)>& see) {
  see(norm_);
  inner_->visit(see);
  if (!post_norm_.name.empty()) see(post_norm_);
}

void Residual::visit_state(const std::function<void(State&)>& see) { inner_->visit_state(see); }

void Residual::visit_costs(const CostVisitor& visitor) const {
  const auto width = static_cast<double>(settings_.width);
  Cost cost;
  cost.part = ModelPart::norms;
  cost.parameters = settings_.width;
  cost.saved = settings_.f32_residual ? SavedBytes{0, 4 * width} : SavedBytes{width, 0};
  cost.saved.fixed += 4;  // rstd
  if (!post_norm_.name.empty()) {
    cost.parameters += settings_.width;
    cost.saved += inner_->f32_output() ? SavedBytes{0, 4 * width + 4} : SavedBytes{width, 4};
  }
  cost.active = static_cast<double>(cost.parameters);
  visitor(cost);
  inner_->visit_costs(visitor);
}

void Residual::after_step(Context& context, bool skipped) { inner_->after_step(context, skipped); }

Tensor Sequence::forward(Context& context, const Tensor& x, Tape& tape) {
  Tensor y = x;
  for (auto& part : parts_) y = part->forward(context, y, tape);
  return y;
}

Tensor Sequence::backward(Context& context, const Tensor& dy, Tape& tape) {
  Tensor dx = dy;
  for (auto part = parts_.rbegin(); part != parts_.rend(); ++part) dx = (*part)->backward(context, dx, tape);
  return dx;
}

void Sequence::visit(const std::function<void(Parameter&)>& see) {
  for (auto& part : parts_) part->visit(see);
}
void Sequence::visit_state(const std::function<void(State&)>& see) {
  for (auto& part : parts_) part->visit_state(see);
}
void Sequence::visit_costs(const CostVisitor& visitor) const {
  for (const auto& part : parts_) part->visit_costs(visitor);
}
void Sequence::after_step(Context& context, bool skipped) {
  for (auto& part : parts_) part->after_step(context, skipped);
}

namespace {
struct SavedInput {
  Tensor x;
  Tape::Kept kept;
};
}  // namespace

Tensor Recomputed::forward(Context& context, const Tensor& x, Tape& tape) {
  if (!context.training()) return inner_->forward(context, x, tape);
  Tape dropped = Tape::for_recomputation();
  Tensor y = inner_->forward(context, x, dropped);
  tape.push(SavedInput{x, dropped.take_kept()});
  return y;
}

Tensor Recomputed::backward(Context& context, const Tensor& dy, Tape& tape) {
  auto saved = tape.pop<SavedInput>();
  Context again = context;
  again.pass = Pass::recompute;
  Tape inner(std::move(saved.kept));
  (void)inner_->forward(again, saved.x, inner);
  Tensor dx = inner_->backward(context, dy, inner);
  check(inner.empty(), "backward left activations of a recomputed layer behind");
  return dx;
}

void Recomputed::visit(const std::function<void(Parameter&)>& see) { inner_->visit(see); }
void Recomputed::visit_state(const std::function<void(State&)>& see) { inner_->visit_state(see); }

void Recomputed::visit_costs(const CostVisitor& visitor) const {
  Cost input;
  input.saved = input_;
  visitor(input);
  inner_->visit_costs([&](Cost cost) {
    cost.recomputed += cost.saved;
    cost.recomputed += cost.kept * -1;
    cost.saved = cost.kept;
    visitor(cost);
  });
}

void Recomputed::after_step(Context& context, bool skipped) { inner_->after_step(context, skipped); }

}  // namespace yard
