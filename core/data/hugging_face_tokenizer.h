#pragma once

#include <string>

#include "core/data/tokenizer.h"

namespace yard {

/// The two files that let `transformers.AutoTokenizer` and the library `tokenizers` read a tokenizer.
struct HuggingFaceTokenizer {
  std::string tokenizer_json;  // tokenizer.json
  std::string config_json;     // tokenizer_config.json
  std::string differs;         // where transformers gives other ids for valid UTF-8, as the end of a sentence; empty: nowhere
};

/// Files with which transformers gives our ids for every text of valid UTF-8, and the text back. Pieces hold spaces themselves instead of
/// U+2581, so that a U+2581 in the text travels as bytes, as it does here. Special tokens written out in a text stay text
/// (`split_special_tokens`), and nothing is added before or after it. The class named is the one that takes tokenizer.json as it is, also
/// beside a tokenizer.model. A merge list ranks pairs of pieces, SentencePiece scores unions: there is one merge a piece, the last of the
/// joins that make it, since no text ever makes it by another (what happens inside of a span before a join reaches across its ends does not
/// depend on what surrounds it).
HuggingFaceTokenizer hugging_face_tokenizer(const Tokenizer& tokenizer);

}  // namespace yard
