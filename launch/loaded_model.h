#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/data/tokenizer.h"
#include "launch/builder.h"
#include "launch/runtime.h"

namespace yard {

/// A checkpoint opened for use, its experts spread over all ranks where they divide them, else every rank holding all.
struct LoadedModel {
  std::string folder;
  RunConfig config;
  std::int32_t start = -1;         // the token before a text; -1: none
  std::int32_t end_of_text = -1;   // the id that ends a document in token files; -1: none
  std::vector<std::int32_t> stop;  // ids that end a text
  DType compute = DType::f32;
  std::unique_ptr<const Tokenizer> tokenizer;  // null where no text was needed, or there is none
  std::unique_ptr<Mesh> mesh;
  Model model;
};

/// Whether a command works with text: with ids alone, with text where the checkpoint has a tokenizer, or only with text.
enum class TextUse : std::uint8_t { none, optional, required };

/// Collective. `checkpoint` is its folder, a Hugging Face directory or a run directory; `settings` win over its configuration,
/// data.tokenizer over its tokenizer. Throws AgreedError for what cannot be read, and for a tokenizer with more ids than the model.
LoadedModel load_checkpoint(RankRuntime&, const std::string& checkpoint, const std::vector<std::string>& settings, TextUse text);

}  // namespace yard
