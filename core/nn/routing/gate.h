#pragma once

#include "core/nn/linear.h"
#include "core/nn/routing/router_kind.h"

namespace yard {

/// A router's learned matrix, (experts, width), stored in f32 and named "gate.weight", after the router's prefix.
Parameter gate_matrix(const RouterPlace&);

/// Concatenates the field lists of a router and of the shared components that it uses.
std::vector<std::string_view> joined(std::vector<std::string_view> own, const std::vector<std::string_view>& shared);

/// Fills `normalize` (whether weights are divided by their sum). Throws InputError if it is set for top_k 1: the weight would be constant.
void normalize_rules(Settings&, const RouterFacts&);

}  // namespace yard
