#pragma once

#include <cstdint>
#include <span>
#include <vector>

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

/// The next token; its draw depends on (seed, number of the text, position) alone. Of equal logits the first comes first.
std::int32_t sample(std::span<const float> logits, const Sampling&, std::uint64_t number, std::uint64_t position);

/// One text being continued. Ranks and batches change nothing of it.
struct Line {
  std::size_t number = 0;
  std::vector<std::int32_t> ids;
  bool live = false;
};

/// Continues texts with a model whose experts are spread over the ranks of `world`.
class Generator {
 public:
  /// A line ends with `end_of_text`; with -1 it never does.
  Generator(RankRuntime& runtime, Transformer& model, const Sampling& sampling, std::int32_t end_of_text)
      : runtime_(runtime), model_(model), sampling_(sampling), end_of_text_(end_of_text) {}

  /// Adds at most `tokens` to each of this rank's lines; `longest` (the most ids of a line) and the number of lines are equal on all ranks.
  /// A rank whose lines have ended continues with padding, since every rank takes part in every exchange. Collective.
  /// Returns the seconds of each token, the prompt's first.
  std::vector<double> run(std::vector<Line>& lines, Index longest, Index tokens);

 private:
  /// Logits after the last id of every line.                                                                    (lines, V) f32
  Tensor forward(const std::vector<Line>& lines, KeyValueCache& cache, Index fresh, bool prompt);
  bool any(bool live);

  RankRuntime& runtime_;
  Transformer& model_;
  Sampling sampling_;
  std::int32_t end_of_text_;
};

}  // namespace yard
