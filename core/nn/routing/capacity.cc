#include "core/nn/routing/capacity.h"

#include <algorithm>
#include <cmath>

#include "core/ops/auxiliary.h"

namespace yard {

std::vector<std::string_view> Capacity::fields() { return {"capacity_factor", "evaluation_capacity", "drop", "group_sequences"}; }

void Capacity::rules(Settings& settings, const RouterFacts& facts) {
  settings.fill("group_sequences", Index{1});
  const auto group = settings.get<Index>("group_sequences");
  check_input(facts.sequences % group == 0, "", settings.path("group_sequences"), " is ", group,
              ", but must divide the sequences that a rank holds in a micro-batch, ", facts.sequences, ": it may be ",
              divisors_text(facts.sequences));
}

Capacity::Capacity(const RouterPlace& place, const Settings& settings, RouterReport& report)
    : factor_(settings.has("capacity_factor") ? settings.get<double>("capacity_factor") : 0),
      evaluation_factor_(settings.has("evaluation_capacity") ? settings.get<double>("evaluation_capacity") : 0),
      experts_(place.experts),
      group_sequences_(settings.get<Index>("group_sequences")),
      drop_(settings.get<std::string>("drop") == "weight" ? ops::DropPolicy::weight : ops::DropPolicy::position) {
  if (factor_ > 0) dropped_ = report.scalar("dropped", 4);
}

Tensor Capacity::within(Context& context, const Tensor& choice, const Tensor& weight) const {
  const double factor = context.training() ? factor_ : evaluation_factor_;
  if (factor <= 0) return choice;
  const Tokens& tokens = context.tokens;
  const Index group = tokens.length * (context.training() ? group_sequences_ : 1);
  const double even = static_cast<double>(choice.cols() * group) / static_cast<double>(experts_);
  const Index capacity = std::max<Index>(4, static_cast<Index>(std::ceil(factor * even)));
  const Tensor drops = Tensor::zeros(context.stream, {8}, DType::i64);
  Tensor kept = choice.clone(context.stream);
  ops::drop_over_capacity(context.stream, kept, weight, experts_, group, tokens.length, capacity, drop_, drops.row_range(0, 4),
                          drops.row_range(4, 4));
  // A recomputed pass drops the same choices and must not report them twice.
  if (context.pass == Pass::train) ops::add_to_report(context.stream, drops, dropped_.values());
  return kept;
}

}  // namespace yard
