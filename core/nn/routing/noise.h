#pragma once

#include <string_view>

#include "core/nn/routing/router.h"

namespace yard {

/// The key of a layer's noise in this step; draws are also keyed by the row's global number (semantics, section 6).
std::uint64_t noise_key(const Context&, const RouterPlace&, std::string_view what);

/// Multiplies the router's copy of x by U(1 - epsilon, 1 + epsilon) in training (Switch; Fedus, Zoph and Shazeer 2021).
class Jitter {
 public:
  Jitter(const RouterPlace& place, float epsilon) : layer_(place), epsilon_(epsilon) {}
  /// Forward on rows, backward on their gradient: the factors are the same.                           x: (N, C) f32
  Tensor apply(Context&, const Tensor& x) const;

 private:
  RouterPlace layer_;
  float epsilon_;
};

}  // namespace yard
