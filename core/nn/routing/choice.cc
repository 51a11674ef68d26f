#include "core/nn/routing/choice.h"

#include <utility>

#include "core/ops/routing.h"

namespace yard {

Choices accept_choices(Context& context, const RouterPlace& place, Tensor expert) {
  Stream& stream = context.stream;
  if (context.choice_override != nullptr) expert = context.choice_override->choose(context, place.experts, expert.cols());
  ops::mask_padding(stream, context.tokens.ids, expert);
  Tensor counts = ops::count_by_sequence(stream, expert, context.tokens.length, place.experts);
  if (context.pass == Pass::train && context.totals != nullptr)
    ops::add_counts(stream, ops::sum_over_layers(stream, counts), context.totals->layer(place.moe_layer));
  return {std::move(expert), std::move(counts)};
}

}  // namespace yard
