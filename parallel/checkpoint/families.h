#pragma once

#include <string>

#include "core/tensor/tensor.h"
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
/// families.cc. Throws InputError of one sentence with all that is not supported.
HuggingFaceConfig read_hugging_face_config(const std::string& folder);

/// config.json of a resolved configuration: of the family that it is exactly one of, else of model_type `switchyard`, which no other
/// program knows. `end_of_text` stands before and after each document.
std::string hugging_face_config(const RunConfig& resolved, DType weights, std::int32_t end_of_text);
/// generation_config.json beside it.
std::string hugging_face_generation_config(std::int32_t end_of_text);

/// losses.balance from router_aux_loss_coef and back: the two formulas agree at perfect balance (semantics, section 7), where ours, summed
/// over the MoE layers, is their number, and transformers', pooled, is top_k.
double balance_from_hugging_face(double coefficient, Index moe_layers, Index top_k);
double balance_to_hugging_face(double balance, Index moe_layers, Index top_k);

/// Where the values of one of our tensors lie when a file has them under another name: in item `item` of the first axis of `tensor` (or in
/// all of it, -1), as part `part` of `parts` equal ones.
struct StoredPart {
  std::string tensor;
  Index item = -1, part = 0, parts = 1;
};
/// The other name that a family's files may use for a tensor of ours; empty `tensor` when there is none.
StoredPart other_name(const std::string& family, const std::string& name);

/// Whether a file's tensor that no parameter asked for may be passed over: buffers that old files hold, and the output of a tied model.
bool may_be_left_over(const std::string& tensor, bool tied_output);

}  // namespace yard
