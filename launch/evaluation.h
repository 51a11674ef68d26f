#pragma once

#include "core/data/loader.h"
#include "core/data/tokenizer.h"
#include "launch/builder.h"

namespace yard {

/// How well a model predicts a text, over all ranks.
struct Evaluation {
  double nats = 0;                        // sum over all targets
  Index targets = 0;                      // tokens predicted, end-of-text tokens among them
  Index bytes = 0;                        // that the targets decode to; end-of-text tokens decode to none
  double loss() const noexcept;           // nats a token
  double perplexity() const noexcept;     // exp(loss)
  double bits_per_byte() const noexcept;  // nats / (ln 2 x bytes); 0 when the bytes are not known
};

/// Dropless, without noise, no state updated; every token once, the same in every layout. Collective.
Evaluation evaluate(Stream&, Profiler&, Mesh&, Model&, const Validation&, const Tokenizer& tokenizer);

}  // namespace yard
