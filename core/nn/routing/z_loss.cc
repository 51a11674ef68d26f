#include "core/nn/routing/z_loss.h"

#include "core/ops/auxiliary.h"

namespace yard {

float ZLoss::backward(Context& context, const Tensor& log_sum_exp) const {
  const Tokens& tokens = context.tokens;
  const double everywhere = static_cast<double>(tokens.length * tokens.sequences_everywhere);
  ops::add_z_loss(context.stream, log_sum_exp, tokens.ids, tokens.length, everywhere, loss_.values());
  return static_cast<float>(z_ / (everywhere * static_cast<double>(context.micros)));
}

}  // namespace yard
