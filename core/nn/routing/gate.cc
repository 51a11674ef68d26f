#include "core/nn/routing/gate.h"

#include <utility>

namespace yard {

Parameter gate_matrix(const RouterPlace& place) {
  Parameter gate = Parameter::whole(place.name + "gate.weight", {place.experts, place.width}, Init::normal(place.deviation));
  gate.full_precision = true;
  gate.rate = RateClass::router;
  return gate;
}

std::vector<std::string_view> joined(std::vector<std::string_view> own, const std::vector<std::string_view>& shared) {
  own.insert(own.end(), shared.begin(), shared.end());
  return own;
}

void normalize_rules(Settings& settings, const RouterFacts& facts) { settings.fill("normalize", facts.top_k > 1); }

}  // namespace yard
