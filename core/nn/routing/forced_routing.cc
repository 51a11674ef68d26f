#include "core/nn/routing/forced_routing.h"

#include "core/nn/experts.h"
#include "core/ops/routing.h"
#include "core/random.h"

namespace yard {

Routing ForcedRouting::forward(Context& context, const Tensor& x, Tape& tape) {
  Context forced = context;
  forced.choice_override = this;
  return inner_->forward(forced, x, tape);
}

Tensor ForcedRouting::choose(Context& context, Index experts, Index k) const {
  return ops::forced_choice(context.stream, row_keys(context), experts, k, skew_, key_of(context.seed, key_of("forced")));
}

}  // namespace yard
