#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/data/sentencepiece.h"
#include "core/data/tokenizer.h"
#include "core/data/trie.h"

namespace yard {

/// What the files of a Hugging Face directory add to the SentencePiece model beside them.
struct TokenAdditions {
  struct Token {
    std::int32_t id = -1;
    std::string text;
    bool absorbs_left = false, absorbs_right = false;  // lstrip, rstrip: spaces beside the token are dropped
    bool matched = true;                               // false: no text can write it
  };
  std::vector<Token> tokens;  // by id, each id and each text once
  /// `legacy` of tokenizer_config.json, prepend_scheme of tokenizer.json.
  PieceTable::Prefix prefix = PieceTable::Prefix::each;
  bool empty() const noexcept { return tokens.empty() && prefix != PieceTable::Prefix::never; }
};

/// Reads added_tokens_decoder of tokenizer_config.json, added_tokens of tokenizer.json, and added_tokens.json in `folder`, as far as they
/// exist: the tokens beyond the model's vocabulary, and those of its pieces that they declare as added. Its unknown piece and its start and
/// end of text stay what a text cannot write; with `split_special_tokens` no text can write a special token. Throws InputError, naming the
/// file, for what is damaged, contradicts the model, or is not supported: `single_word`.
TokenAdditions read_token_additions(const std::string& folder, const SentencePiece& model);

/// A SentencePiece model with tokens that are cut out of a text before it: the longest of those that begin leftmost. An added token decodes
/// to its text. Ids without a token between the model's and the added ones are pieces of the kind `unreachable`.
class AddedTokens final : public Tokenizer {
 public:
  AddedTokens(std::unique_ptr<const SentencePiece> model, TokenAdditions additions);

  Index vocabulary() const noexcept override { return static_cast<Index>(table_.pieces.size()); }
  std::int32_t end_of_text() const noexcept override { return model_->end_of_text(); }
  bool lossless() const noexcept override { return lossless_; }
  bool splits_at_newlines() const noexcept override { return splits_at_newlines_; }
  using Tokenizer::encode;
  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override;
  std::string_view bytes(std::int32_t previous, std::int32_t id) const override;
  const PieceTable& table() const noexcept override { return table_; }

 private:
  /// The number in `additions_.tokens` of an id, -1 for a piece of the model.
  std::int32_t number_of(std::int32_t id) const;

  std::unique_ptr<const SentencePiece> model_;
  TokenAdditions additions_;
  Trie trie_;
  PieceTable table_;
  bool lossless_ = false, splits_at_newlines_ = false;
};

}  // namespace yard
