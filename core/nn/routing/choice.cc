#include "core/nn/routing/choice.h"

#include <utility>

#include "core/ops/routing.h"

namespace yard {

Choices accept_choices(Context& context, const RouterPlace& place, Tensor expert) {
  Stream& stream = context.stream;
  if (context.choice_override != nullptr) expert = context.choice_override->choose(context, place.experts, expert.cols());
  Tensor counts = count_choices(context, place, expert);
  if (context.pass == Pass::train && context.totals != nullptr)
    ops::add_counts(stream, ops::sum_over_layers(stream, counts), context.totals->layer(place.moe_layer));
  return {std::move(expert), std::move(counts)};
}

Tensor count_choices(Context& context, const RouterPlace& place, const Tensor& expert) {
  ops::mask_padding(context.stream, context.tokens.ids, expert);
  return ops::count_by_sequence(context.stream, expert, context.tokens.length, place.experts);
}

}  // namespace yard
