#include "core/nn/routing/router.h"

#include "core/ops/routing.h"

namespace yard {

void RoutingTotals::end_micro(Stream& stream) { ops::add_counts(stream, micro(), step_); }

Tensor tokens_of_slots(Stream& stream, Index tokens, Index k) {
  Tensor token(stream, {tokens * k}, DType::i32);
  ops::count_slots(stream, token, k);
  return token;
}

}  // namespace yard
