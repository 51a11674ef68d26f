#pragma once

#include <string>

#include "core/tensor/tensor.h"
#include "parallel/families/shared/name_table.h"
#include "proto/config.pb.h"

namespace yard {

/// What the config.json of a Hugging Face directory says, in our words.
struct HuggingFaceConfig {
  RunConfig config;         // model.*; losses.balance where the file has a coefficient; run.precision as the weights are stored
  std::string family;       // model_type
  Index window = 0;         // attention reaches back this many tokens; 0: all of them
  std::int32_t start = -1;  // bos_token_id: what stands before a text; -1: not said
};

/// Reads FOLDER/config.json: the settings of transformers 4 (rope_theta, torch_dtype) and 5 (rope_parameters, dtype), of the families in
/// parallel/families. Throws InputError with one sentence that lists everything that is not supported.
HuggingFaceConfig read_hugging_face_config(const std::string& folder);

/// config.json of a resolved configuration: of the family that it is exactly one of, else of model_type `switchyard`, which no other
/// program knows. `end_of_text` stands before and after each document; -1: none.
std::string hugging_face_config(const RunConfig& resolved, DType weights, std::int32_t end_of_text);
/// generation_config.json beside it.
std::string hugging_face_generation_config(std::int32_t end_of_text);

/// The names of tensors in a family's files; our names if there is no such family.
NameTable names_of_family(const std::string& model_type);
/// The tensor names in checkpoints of a resolved configuration: those of the family that hugging_face_config names.
NameTable names_of_model(const RunConfig& resolved);

/// Whether a file's tensor that no parameter asked for may be passed over: buffers that old files hold, and the output of a tied model.
bool may_be_left_over(const std::string& tensor, bool tied_output);

}  // namespace yard
