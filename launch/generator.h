#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/data/tokenizer.h"
#include "core/nn/kv_cache.h"
#include "core/nn/transformer.h"
#include "launch/runtime.h"

namespace yard {

/// How the next token is drawn: the likeliest at temperature 0, else from the smallest set of the likeliest whose mass reaches top_p
/// (Holtzman et al. 2020).
struct Sampling {
  double temperature = 0.8, top_p = 0.95;
  std::uint64_t seed = 1;
};

/// The next token; its draw depends on (seed, number of the text, position) alone. Of equal logits the first comes first. Ids whose entry
/// in `drawable` is 0 are never drawn; empty allows all.                                                             (V) each
std::int32_t sample(std::span<const float> logits, const Sampling&, std::uint64_t number, std::uint64_t position,
                    std::span<const std::uint8_t> drawable = {});

/// Which of a model's ids may be drawn (1) or not (0): those that the tokenizer has a text for, and `stop`. Throws InputError when the
/// tokenizer has a text for none of them.                                                                            (vocabulary)
std::vector<std::uint8_t> drawable_ids(const Tokenizer&, std::span<const std::int32_t> stop, Index vocabulary);

/// One text being continued. Ranks and batches change nothing of it.
struct Line {
  std::size_t number = 0;
  std::vector<std::int32_t> ids;
  bool live = false;
};

/// Continues texts with a model whose experts are spread over the ranks of `world`.
class Generator {
 public:
  /// A line ends with the first id of `stop`. `drawable` is as `sample` takes it.
  Generator(RankRuntime& runtime, Transformer& model, const Sampling& sampling, std::vector<std::int32_t> stop,
            std::vector<std::uint8_t> drawable)
      : runtime_(runtime), model_(model), sampling_(sampling), stop_(std::move(stop)), drawable_(std::move(drawable)) {}

  /// Adds at most `tokens` to each of this rank's lines; `longest` (the most ids of a line) and the number of lines are equal on all ranks.
  /// A rank whose lines have ended continues with padding, since every rank takes part in every exchange. Collective.
  /// `after_token` is called on each rank after every token. Returns the seconds of each token, the prompt's first.
  std::vector<double> run(std::vector<Line>& lines, Index longest, Index tokens,
                          const std::function<void(const std::vector<Line>&)>& after_token = {});

 private:
  /// Logits after the last id of every line.                                                                    (lines, V) f32
  Tensor forward(const std::vector<Line>& lines, KeyValueCache& cache, Index fresh, bool prompt);
  bool any(bool live);

  RankRuntime& runtime_;
  Transformer& model_;
  Sampling sampling_;
  std::vector<std::int32_t> stop_;
  std::vector<std::uint8_t> drawable_;
};

}  // namespace yard
