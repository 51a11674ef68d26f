#include "launch/data_tokenizer.h"

#include "core/error.h"
#include "launch/config_rules.h"

namespace yard {

std::unique_ptr<const Tokenizer> open_data_tokenizer(const RunConfig& config) {
  const std::string& name = config.data().tokenizer();
  if (name == "none") return nullptr;
  auto tokenizer = open_tokenizer(name);
  check_tokenizer_fits(*tokenizer, name, config);
  return tokenizer;
}

std::string match_tokenizer(RunConfig& config, std::unique_ptr<const Tokenizer>& tokenizer, bool named,
                            const std::vector<LargestId>& data) {
  RunConfig::Data& fields = *config.mutable_data();
  std::string note;
  for (const LargestId& largest : data) {
    if (tokenizer == nullptr || largest.id < tokenizer->vocabulary()) continue;
    check_input(!named, "", largest.stream->name(), " holds id ", largest.id, " at position ", largest.position, ", beyond the ",
                tokenizer->vocabulary(), " ids of data.tokenizer ", fields.tokenizer(),
                ": name the SentencePiece model that made the tokens, or set data.tokenizer=none");
    note = "data.tokenizer is none: " + largest.stream->name() + " holds id " + std::to_string(largest.id) + ", beyond the " +
           std::to_string(tokenizer->vocabulary()) + " ids of " + fields.tokenizer() + "; bits per byte are left out";
    fields.set_tokenizer("none");
    tokenizer = nullptr;
  }
  if (tokenizer != nullptr && !fields.has_end_of_text()) fields.set_end_of_text(tokenizer->end_of_text());
  for (const LargestId& each : data) {
    check_input(!fields.document_mask() || fields.has_end_of_text() || !each.stream->document_ends().empty(),
                "data.document_mask must know where documents end: ", each.stream->name(),
                " does not mark it, and data.tokenizer is 'none'; set data.end_of_text to the id that ends a document");
  }
  return note;
}

}  // namespace yard
