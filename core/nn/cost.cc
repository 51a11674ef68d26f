#include "core/nn/cost.h"

#include <algorithm>
#include <cmath>

namespace yard {

std::string_view name_of(ModelPart part) {
  switch (part) {
    case ModelPart::embedding:
      return "embedding";
    case ModelPart::norms:
      return "norms";
    case ModelPart::attention:
      return "attention";
    case ModelPart::router:
      return "router";
    case ModelPart::experts:
      return "experts";
    case ModelPart::shared:
      return "shared experts";
    case ModelPart::feed_forward:
      return "feed-forward";
    case ModelPart::output:
      break;
  }
  return "output";
}

Index ModelCosts::parameters() const noexcept {
  Index sum = 0;
  for (const Entry& entry : entries_) sum += entry.cost.parameters;
  return sum;
}

Index ModelCosts::parameters(ModelPart part) const noexcept {
  Index sum = 0;
  for (const Entry& entry : entries_) sum += entry.cost.part == part ? entry.cost.parameters : 0;
  return sum;
}

Index ModelCosts::spread_parameters() const noexcept {
  Index sum = 0;
  for (const Entry& entry : entries_) sum += entry.cost.spread ? entry.cost.parameters : 0;
  return sum;
}

Index ModelCosts::active_parameters() const noexcept {
  double sum = 0;
  for (const Entry& entry : entries_) sum += entry.cost.active;
  return static_cast<Index>(std::llround(sum));
}

double ModelCosts::training_flops_per_token(Index length) const noexcept {
  double forward = 0;
  for (const Entry& entry : entries_) {
    forward += entry.cost.scores.flops_per_token(static_cast<double>(length));
    for (const MatmulCost& matmul : entry.cost.matmuls) forward += matmul.f32 ? 0 : matmul.flops_per_token();
  }
  return 3 * forward;
}

double ModelCosts::saved_bytes_per_token(double bytes_per_value) const noexcept {
  double saved = 0;
  double group_recomputed = 0;
  double largest = 0;
  Index group = 0;
  for (const Entry& entry : entries_) {
    if (entry.group != group) group_recomputed = 0;
    group = entry.group;
    saved += entry.cost.saved.bytes(bytes_per_value);
    group_recomputed += entry.cost.recomputed.bytes(bytes_per_value);
    largest = std::max(largest, group_recomputed);
  }
  return saved + largest;
}

Index ModelCosts::state_bytes() const noexcept {
  Index sum = 0;
  for (const Entry& entry : entries_) sum += entry.cost.state_bytes;
  return sum;
}

double ModelCosts::slots_per_token() const noexcept {
  double most = 0;
  for (const Entry& entry : entries_) {
    if (entry.cost.part != ModelPart::experts) continue;
    for (const MatmulCost& matmul : entry.cost.matmuls) most = std::max(most, matmul.rows);
  }
  return most;
}

}  // namespace yard
