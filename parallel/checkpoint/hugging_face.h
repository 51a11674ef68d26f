#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/io/json.h"
#include "core/tensor/tensor.h"
#include "parallel/families/shared/name_table.h"
#include "proto/config.pb.h"

namespace yard {

/// A Hugging Face directory's settings as a configuration. README.md lists what each key becomes.
struct HuggingFaceConfig {
  /// model.*; losses.balance in transformers' convention where the family has a coefficient; run.precision as the weights are stored.
  RunConfig config;
  std::string family;                // model_type
  std::vector<std::string> notices;  // one sentence for each file with keys that are neither read nor known
};

/// Reads FOLDER/config.json as transformers 4 and 5 write it, of the families in parallel/families, and generation_config.json and
/// tokenizer_config.json beside it where they exist. Throws InputError with one sentence that lists everything that is not supported.
HuggingFaceConfig read_hugging_face_config(const std::string& folder);

/// The files of a directory that a run started or resumed from, for keeping what this program does not read: config.json and
/// generation_config.json; null where there is none.
struct KeptConfig {
  nlohmann::json config, generation;
};
KeptConfig kept_config(const std::string& folder);

/// config.json and generation_config.json, by name, of a resolved configuration: of the family that its model exactly belongs to, else of
/// model_type `switchyard`, which no other program knows. `end_of_text` is the tokenizer's, -1 if there is none. Keys of `kept` that the
/// configuration says nothing about stay as they are, if it is of the same family.
std::map<std::string, std::string> hugging_face_configs(const RunConfig& resolved, DType weights, std::int32_t end_of_text,
                                                        const KeptConfig& kept = {});

/// The ids in model.stop_tokens, ascending, or nothing if it is not set. Throws InputError unless they are below the vocabulary.
std::vector<std::int32_t> stop_tokens(const RunConfig::Model&);

/// The names of tensors in a family's files; our names if there is no such family.
NameTable names_of_family(const std::string& model_type);
/// The tensor names in checkpoints of a resolved configuration: those of the family that hugging_face_configs names.
NameTable names_of_model(const RunConfig& resolved);

/// Whether a file's tensor that no parameter asked for may be passed over: buffers that old files hold, and the output of a tied model.
bool may_be_left_over(const std::string& tensor, bool tied_output);

}  // namespace yard
