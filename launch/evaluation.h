#pragma once

#include <optional>

#include "core/data/loader.h"
#include "core/data/tokenizer.h"
#include "launch/builder.h"

namespace yard {

/// How well a model predicts a text, over all ranks.
struct Evaluation {
  double nats = 0;                     // sum over all targets
  Index targets = 0;                   // tokens predicted, end-of-text tokens among them
  Index bytes = 0;                     // that the targets decode to; end-of-text tokens decode to none
  Index unknown = 0;                   // targets that the tokenizer has no id for; all of them without a tokenizer
  double loss() const noexcept;        // nats a token
  double perplexity() const noexcept;  // exp(loss)
  /// nats / (ln 2 x bytes); nothing where the bytes are not known or there are none.
  std::optional<double> bits_per_byte() const noexcept;
};

/// Dropless, without noise, no state updated; every token once, the same in every layout. `tokenizer` may be null. Collective.
Evaluation evaluate(Stream&, Profiler&, Mesh&, Model&, const Validation&, const Tokenizer* tokenizer);

}  // namespace yard
