#include "launch/layout_compare.h"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "core/error.h"

namespace yard {
namespace {

double relative(double reference, double other) {
  if (reference == other) return 0;
  return std::abs(other - reference) / std::max(std::abs(reference), std::numeric_limits<double>::min());
}

/// The experts of each row, in ascending order.
std::vector<std::vector<std::int32_t>> experts_of_rows(const RoutingBlock& block) {
  std::vector<std::vector<std::int32_t>> rows(static_cast<std::size_t>(block.rows));
  for (std::size_t slot = 0; slot < block.token.size(); ++slot) {
    if (block.expert[slot] >= 0) rows.at(static_cast<std::size_t>(block.token[slot])).push_back(block.expert[slot]);
  }
  for (auto& row : rows) std::sort(row.begin(), row.end());
  return rows;
}

/// The number of a row's choices that differ between two runs: the larger number of choices, minus the common choices.
Index changed_choices(const std::vector<std::int32_t>& a, const std::vector<std::int32_t>& b) {
  std::vector<std::int32_t> common;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(common));
  return static_cast<Index>(std::max(a.size(), b.size()) - common.size());
}

Index all_choices(const ProbeStep& step) {
  Index sum = 0;
  for (const auto& layer : step.tokens_per_expert) sum = std::accumulate(layer.begin(), layer.end(), sum);
  return sum;
}

/// The share of a step's choices that another expert got, as far as counts show it.
double changed_share(const ProbeStep& a, const ProbeStep& b) {
  double changed = 0;
  for (std::size_t layer = 0; layer < a.tokens_per_expert.size(); ++layer) {
    for (std::size_t expert = 0; expert < a.tokens_per_expert[layer].size(); ++expert) {
      changed += std::abs(static_cast<double>(a.tokens_per_expert[layer][expert] - b.tokens_per_expert[layer][expert]));
    }
  }
  return changed / std::max(1.0, static_cast<double>(all_choices(a)));
}

void compare_gradients(const ProbeStep& reference, const ProbeStep& other, Worst& worst) {
  const double floor = 1e-5 * reference.norms.all;
  for (const auto& [name, mine] : reference.gradients) {
    const auto found = other.gradients.find(name);
    if (found == other.gradients.end() || found->second.count != mine.count) {
      worst.take(std::numeric_limits<double>::infinity(), name + " (other values)");
      continue;
    }
    const double squares = std::max({mine.squares, floor * floor, std::numeric_limits<double>::min()});
    worst.take(std::abs(found->second.sum - mine.sum) / std::max(std::abs(mine.sum), std::sqrt(squares)), name + " (sum)");
    worst.take(std::abs(found->second.squares - mine.squares) / squares, name + " (sum of squares)");
  }
  for (const auto& [name, theirs] : other.gradients) {
    if (reference.gradients.count(name) == 0) worst.take(std::numeric_limits<double>::infinity(), name + " (unknown to the first layout)");
  }
}

}  // namespace

std::optional<RoutingFlip> first_flip(RoutingReader& reference, RoutingReader& other) {
  std::optional<RoutingFlip> flip;
  std::set<Index> micros;  // of the flip's step, whose first layer with a flip is behind
  for (;;) {
    const auto a = reference.next();
    const auto b = other.next();
    check(a.has_value() == b.has_value(), "one layout recorded more routing than the other");
    if (!a || (flip && a->step > flip->step)) return flip;
    check(a->step == b->step && a->micro == b->micro && a->layer == b->layer && a->first_row == b->first_row && a->rows == b->rows,
          "the layouts recorded the routing of different rows at step ", a->step);
    Index tokens = 0;
    double gap = 0;
    Index choices = 0;
    const auto of_a = experts_of_rows(*a);
    const auto of_b = experts_of_rows(*b);
    for (std::size_t row = 0; row < of_a.size(); ++row) {
      const Index changed = changed_choices(of_a[row], of_b[row]);
      if (changed == 0) continue;
      ++tokens;
      choices += changed;
      gap = std::max<double>(gap, std::max(a->margin[row], b->margin[row]));
    }
    if (tokens == 0) continue;
    if (!flip) flip = RoutingFlip{a->step, a->layer, 0, 0, 0};
    flip->choices_in_step += choices;
    if (!micros.insert(a->micro).second) continue;
    flip->layer = std::min(flip->layer, a->layer);
    flip->tokens += tokens;
    flip->gap = std::max(flip->gap, gap);
  }
}

LayoutBounds bounds_in(DType dtype) {
  LayoutBounds bounds;
  if (dtype == DType::bf16) {
    bounds.loss = 1e-4;
    bounds.loss_after_flip = 1e-3;
    bounds.gap = 0x1p-8;
  }
  return bounds;
}

LayoutComparison compare_layouts(const std::vector<ProbeStep>& reference, const std::vector<ProbeStep>& other,
                                 const std::optional<RoutingFlip>& flip, const LayoutBounds& bounds) {
  check(!reference.empty() && reference.size() == other.size(), "the layouts took ", reference.size(), " and ", other.size(), " steps");
  LayoutComparison result;
  result.steps = static_cast<Index>(reference.size());
  result.flip = flip;
  const auto within = [&result](double difference, double bound, const std::string& what) {
    if (!(difference <= bound)) result.broken.push_back(fmt::format("{} by {:.1e}, the bound is {:.1e}", what, difference, bound));
  };

  const ProbeStep& first = reference.front();
  const ProbeStep& start = other.front();
  result.dense.take(relative(first.norms.dense, start.norms.dense), "step 1");
  result.router.take(relative(first.norms.router, start.norms.router), "step 1");
  result.expert.take(relative(first.norms.expert, start.norms.expert), "step 1");
  compare_gradients(first, start, result.checksum);
  const bool rounding = flip && flip->gap <= bounds.gap;  // only then does a flip excuse what follows from it
  const bool early = rounding && flip->step == 1;
  const double share = early ? 4 * static_cast<double>(flip->choices_in_step) / std::max(1.0, static_cast<double>(all_choices(first))) : 0;
  const double experts = first.tokens_per_expert.empty() ? 1 : static_cast<double>(first.tokens_per_expert.front().size());
  const double layers = std::max<double>(1, static_cast<double>(first.tokens_per_expert.size()));
  const double norm_bound = early ? 10 * bounds.norm + share : bounds.norm;
  within(result.dense.value, norm_bound, "the norm of the dense gradients differs at step 1");
  within(result.router.value, norm_bound, "the norm of the router gradients differs at step 1");
  within(result.expert.value, norm_bound, "the norm of the expert gradients differs at step 1");
  within(result.checksum.value, bounds.checksum + share * experts * layers,
         "the gradient of " + result.checksum.where + " differs at step 1");

  bool loss_said = false;
  bool balance_said = false;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const ProbeStep& a = reference[i];
    const ProbeStep& b = other[i];
    const std::string step = "step " + std::to_string(a.step);
    const bool flipped = rounding && a.step >= flip->step;
    const double loss = relative(a.loss, b.loss);
    const double balance = relative(a.balance_loss, b.balance_loss);
    result.loss.take(loss, step);
    result.balance.take(balance, step);
    if (!result.counts && a.tokens_per_expert != b.tokens_per_expert) result.counts = a.step;
    const double bound = flipped ? bounds.loss_after_flip : bounds.loss;
    if (!loss_said && !(loss <= bound)) within(loss, bound, "the loss differs at " + step), loss_said = true;
    const double balance_bound = flipped ? bound + changed_share(a, b) : bound;
    if (!balance_said && !(balance <= balance_bound))
      within(balance, balance_bound, "the balance loss differs at " + step), balance_said = true;
  }

  if (result.counts && (!flip || *result.counts < flip->step)) {
    result.broken.push_back(
        fmt::format("an expert got another number of tokens at step {}, but no token was routed otherwise", *result.counts));
  }
  if (flip && !(flip->gap <= bounds.gap)) {
    result.broken.push_back(
        fmt::format("{} token{} routed otherwise at step {} in MoE layer {} with a gap of {:.1e} between scores, more than "
                    "rounding, {:.0e}",
                    flip->tokens, flip->tokens == 1 ? " was" : "s were", flip->step, flip->layer, flip->gap, bounds.gap));
  }
  return result;
}

}  // namespace yard
