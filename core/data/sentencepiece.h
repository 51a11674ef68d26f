#pragma once

#include <array>
#include <string>
#include <vector>

#include "core/data/segmenter.h"
#include "core/data/tokenizer.h"

namespace yard {

/// A SentencePiece model file, read with our own proto and segmented by our own code. Gives the ids of `spm_encode`, with three exceptions
/// that make it lossless where the model has byte pieces: bytes that are not UTF-8, and U+2581 (the model's mark for a space) in the text,
/// travel as byte pieces, and byte pieces decode to their bytes.
class SentencePiece final : public Tokenizer {
 public:
  /// Throws InputError when the file is no model, or one with normalisation rules, suffix marks, or of the types word and char.
  explicit SentencePiece(const std::string& path);

  Index vocabulary() const noexcept override { return static_cast<Index>(surfaces_.size()); }
  std::int32_t end_of_text() const noexcept override { return end_of_text_; }
  bool lossless() const noexcept override { return byte_fallback_ && !remove_extra_whitespaces_; }
  bool splits_at_newlines() const noexcept override { return splits_at_newlines_; }
  using Tokenizer::encode;
  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override { encode(text, ids, true); }
  /// The same; the space that the model may put before a text is only put where `prefix` is true.
  void encode(std::string_view text, std::vector<std::int32_t>& ids, bool prefix) const;
  std::string_view bytes(std::int32_t previous, std::int32_t id) const override;
  const PieceTable& table() const noexcept override { return table_; }
  /// A piece as the model's file has it.
  const std::string& name(std::int32_t id) const { return names_[static_cast<std::size_t>(id)]; }

 private:
  class Ids;
  std::string path_;
  std::vector<std::string> names_;     // as the file has them
  std::vector<std::string> surfaces_;  // what each id decodes to
  std::vector<bool> sheds_space_;      // may lose its first space at the start of a text
  std::array<std::int32_t, 256> byte_ids_{};
  std::unique_ptr<Segmenter> segmenter_;
  PieceTable table_;
  std::int32_t unknown_ = -1, end_of_text_ = -1;
  bool byte_fallback_ = false, dummy_prefix_ = false, remove_extra_whitespaces_ = false, splits_at_newlines_ = false;
};

}  // namespace yard
