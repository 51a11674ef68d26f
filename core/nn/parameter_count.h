#pragma once

#include "core/nn/model_shape.h"

namespace yard {

/// How many values a model learns, by part, counted from its shape alone. An embedding that is also the output counts once.
struct ParameterCount {
  Index embedding = 0;  // and the output matrix, where it is one of its own
  Index attention = 0;
  Index norms = 0;
  Index dense = 0;    // feed-forwards of dense layers, and those after MoE blocks
  Index shared = 0;   // shared experts and their gates
  Index routers = 0;  // router matrices
  Index experts = 0;  // routed experts of all layers, over all ranks
  Index idle = 0;     // of these, what a token does not meet: experts - top_k of each MoE layer

  /// Everything outside the routed experts: every rank holds it.
  Index replicated() const noexcept { return embedding + attention + norms + dense + shared + routers; }
  Index all() const noexcept { return replicated() + experts; }
  /// What one token passes through, its whole embedding included, as published numbers of active parameters have it.
  Index active() const noexcept { return all() - idle; }
  /// What a rank holds when the experts are spread over `expert_ranks` of them.
  Index on_rank(Index expert_ranks) const noexcept { return replicated() + experts / expert_ranks; }
};

ParameterCount count_parameters(const ModelShape&);

}  // namespace yard
