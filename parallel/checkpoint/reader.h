#pragma once

#include <string>
#include <vector>

#include "parallel/checkpoint/folder.h"
#include "parallel/sharded_adamw.h"

namespace yard {

/// Sizes of the model in a folder's files, from their headers; 0 where no tensor tells.
struct StoredSizes {
  Index layers = 0, experts = 0, vocabulary = 0, width = 0;
  Index values = 0;  // of all tensors
};
StoredSizes stored_sizes(const std::string& folder);
/// The names of the files in a folder that hold its model: model.safetensors if it exists, else those of the index.
std::vector<std::string> model_files(const std::string& folder);

/// Reads a model's values by name into any layout: each rank reads only the bytes that it holds, from one file or several, from tensors of
/// an expert each or those that hold all of a layer's, in bf16, f16 or f32. Masters of `optimizer`, when given, take the same values.
/// Throws InputError that lists what is missing, left over or of another shape; nothing has been read then.
void load_model(Stream&, const std::string& folder, ParameterStore&, const std::vector<State*>& states, Index experts, bool tied_output,
                ShardedAdamW* optimizer);

/// Reads this rank's share of the optimizer's state, whatever layout wrote it. Throws InputError naming a parameter that is not complete.
void load_optimizer(Stream&, const std::string& folder, const CheckpointState&, ParameterStore&, Mesh&, ShardedAdamW&);

}  // namespace yard
