#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/data/token_file.h"
#include "core/data/tokenizer.h"
#include "proto/config.pb.h"

namespace yard {

/// A stream of tokens of a run, and where it has its largest id.
struct LargestId {
  const TokenStream* stream = nullptr;
  std::int64_t id = -1;
  Index position = 0;
};

/// Opens data.tokenizer of a resolved configuration, null for `none`. Throws InputError when it has more ids than the model.
std::unique_ptr<const Tokenizer> open_data_tokenizer(const RunConfig& config);

/// Compares a run's tokenizer with its data. Where it is the default (not `named`) and the data hold ids that it lacks, data.tokenizer
/// becomes none, `tokenizer` null, and a sentence about this is returned. Sets data.end_of_text where a tokenizer knows it. Throws
/// InputError when the named tokenizer lacks ids of the data, and when data.document_mask cannot know where documents end.
std::string match_tokenizer(RunConfig& config, std::unique_ptr<const Tokenizer>& tokenizer, bool named, const std::vector<LargestId>& data);

}  // namespace yard
