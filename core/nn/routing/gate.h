#pragma once

#include "core/nn/linear.h"
#include "core/nn/routing/router_kind.h"

namespace yard {

/// A router's learned matrix, (experts, width), kept in f32 and named "gate.weight" behind the router's prefix.
Parameter gate_matrix(const RouterPlace&);

/// The lists of fields of a router and of the shared components that it uses, as one.
std::vector<std::string_view> joined(std::vector<std::string_view> own, const std::vector<std::string_view>& shared);

/// Fills `normalize`, whether weights are divided by their sum, and rejects it for one choice, whose weight would be constant.
void normalize_rules(Settings&, const RouterFacts&);

}  // namespace yard
