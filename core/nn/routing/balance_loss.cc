#include "core/nn/routing/balance_loss.h"

#include "core/ops/auxiliary.h"
#include "core/ops/routing.h"

namespace yard {

BalanceLoss::BalanceLoss(const RouterPlace& place, Index choices, RouterReport& report)
    : losses_(place.losses),
      moe_layer_(place.moe_layer),
      moe_layers_(place.moe_layers),
      experts_(place.experts),
      choices_(choices),
      loss_(report.loss("balance")) {}

void BalanceLoss::forward(Context& context, const Tensor& counts) const {
  if (context.pass != Pass::train || context.totals == nullptr) return;
  ops::add_counts(context.stream, ops::sum_over_layers(context.stream, counts), context.totals->loss_layer(moe_layer_));
}

Tensor BalanceLoss::backward(Context& context, const Tensor& p, const Tensor& counts) const {
  const Tokens& tokens = context.tokens;
  const bool by_sequence = losses_.scope == LossSettings::Scope::sequence;
  check(by_sequence || context.totals != nullptr, "the balance loss needs the routing totals of the micro-batch");
  const double everywhere = static_cast<double>(by_sequence ? 1 : tokens.length) * static_cast<double>(tokens.sequences_everywhere);
  ops::add_balance_loss(context.stream, ops::sum_by_sequence(context.stream, p, tokens.ids, tokens.length),
                        by_sequence ? counts : context.totals->loss_layer(moe_layer_), choices_, everywhere, loss_.values());
  return losses_.balance == 0 ? Tensor() : coefficients(context, counts);
}

Tensor BalanceLoss::coefficients(Context& context, const Tensor& counts) const {
  const Tokens& tokens = context.tokens;
  const double experts = static_cast<double>(experts_);
  const double k = static_cast<double>(choices_);
  const double micros = static_cast<double>(context.micros);
  const double length = static_cast<double>(tokens.length);
  const double sequences = static_cast<double>(tokens.sequences_everywhere);
  const double everywhere = length * sequences;
  if (losses_.convention == LossSettings::Convention::huggingface) {  // the rows of all layers are pooled before the product
    const double pooled = static_cast<double>(moe_layers_) * everywhere;
    return ops::scaled_counts(context.stream, ops::sum_over_layers(context.stream, context.totals->losses()),
                              losses_.balance * experts / (pooled * pooled * micros));
  }
  if (losses_.scope == LossSettings::Scope::sequence)
    return ops::scaled_counts(context.stream, counts, losses_.balance * experts / (k * length * length * micros * sequences));
  return ops::scaled_counts(context.stream, context.totals->loss_layer(moe_layer_).reshaped({1, experts_}),
                            losses_.balance * experts / (k * everywhere * everywhere * micros));
}

}  // namespace yard
