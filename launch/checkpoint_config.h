#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/data/tokenizer.h"
#include "core/tensor/dtype.h"
#include "parallel/checkpoint/hugging_face.h"
#include "proto/config.pb.h"

namespace yard {

/// What a checkpoint's folder says of its model: the resolved configuration of the run that wrote it, or what config.json of a Hugging Face
/// directory says, not resolved.
HuggingFaceConfig config_of_checkpoint(const std::string& folder);

/// What a user should know about a Hugging Face directory that is read, a sentence each: which files hold the weights, and which keys of
/// its config.json are not known here. Nothing for a checkpoint of a run.
std::vector<std::string> directory_notices(const std::string& folder);

/// What turns text into the model's ids: "bytes", or a file in the folder; empty when there is none that can be read.
std::string tokenizer_of_checkpoint(const std::string& folder, const RunConfig& config);
/// The same, opened. Throws InputError that says what the folder has instead.
std::unique_ptr<const Tokenizer> open_tokenizer_of(const std::string& folder, const RunConfig& config);

/// A configuration with init.checkpoint: the fields of `model` that it does not give are the checkpoint's, and so are losses.balance and
/// the tokenizer. Throws InputError for what the checkpoint requires and is not supported.
RunConfig with_initial_checkpoint(RunConfig given);

/// The small files of a checkpoint, by name: config.json, generation_config.json, the tokenizer's. `source` is the folder that the run
/// started or resumed from, or empty: what its files hold beyond the configuration is kept, and its tokenizer's files are copied if they
/// belong to the run's tokenizer, or the run has none (null).
std::map<std::string, std::string> checkpoint_texts(const RunConfig& resolved, DType weights, const Tokenizer*, const std::string& source);

}  // namespace yard
