#pragma once

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
  std::int32_t start = -1;  // the token before a text; set with the tokenizer
  DType compute = DType::f32;
  std::unique_ptr<const Tokenizer> tokenizer;  // empty where no text was needed
  std::unique_ptr<Mesh> mesh;
  Model model;
};

/// Collective. `checkpoint` is its folder, a Hugging Face directory or a run directory; `settings` are applied to its configuration. Its
/// tokenizer is opened when `needs_text`. Throws AgreedError for what cannot be read.
LoadedModel load_checkpoint(RankRuntime&, const std::string& checkpoint, const std::vector<std::string>& settings, bool needs_text);

}  // namespace yard
