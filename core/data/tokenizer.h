#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor/tensor.h"

namespace yard {

/// What each id of a tokenizer is, and how text is cut into them: all that another program needs to do the same.
struct PieceTable {
  enum class Kind : std::uint8_t { normal, user_defined, unused, byte, control, unknown, unreachable };  // unreachable: of no text
  struct Piece {
    std::string text;  // as it stands in a text, a space being ' '; the name of a piece that stands for no text
    float score = 0;
    Kind kind = Kind::normal;
    unsigned char byte = 0;  // of a byte piece
  };
  /// Stretches of a text between added tokens: all of them, the first where no added token stands before it, or none.
  enum class Prefix : std::uint8_t { each, first, never };
  bool unigram = false;                           // the cut with the best sum of scores; else byte-pair encoding by score
  bool byte_fallback = true;                      // a character without a piece becomes its bytes, else `unknown`
  bool dummy_prefix = false;                      // a space is put before a text
  bool remove_extra_whitespaces = false;          // spaces are dropped at both ends, and all but one of several in a row
  std::int32_t start_of_text = -1, unknown = -1;  // -1: there is none
  std::vector<Piece> pieces;                      // by id
  struct Added {
    std::int32_t id = -1;
    bool absorbs_left = false, absorbs_right = false;  // spaces beside it are dropped
  };
  std::vector<Added> added;      // by id: user-defined pieces that cut a text into stretches before anything else happens to it
  Prefix prefix = Prefix::each;  // which stretches dummy_prefix is for
};

/// Text to token ids and back. Lossless unless it says otherwise: decode(encode(x)) == x for every string of bytes, UTF-8 or not.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Ids are in [0, vocabulary()).
  virtual Index vocabulary() const noexcept = 0;
  /// The id that stands after each document; it decodes to nothing.
  virtual std::int32_t end_of_text() const noexcept = 0;
  /// False for models that drop characters or spaces.
  virtual bool lossless() const noexcept = 0;
  /// True when no token reaches across a newline and a text may be encoded line by line with the same result.
  virtual bool splits_at_newlines() const noexcept = 0;
  /// Appends the ids of a text, without an end of text.
  virtual void encode(std::string_view text, std::vector<std::int32_t>& ids) const = 0;
  /// The bytes that `id` stands for when it follows `previous`. A document begins after an end of text, and there alone the space that some
  /// models put before a text is taken away. Throws Error when the id is outside of the vocabulary.
  virtual std::string_view bytes(std::int32_t previous, std::int32_t id) const = 0;
  virtual const PieceTable& table() const noexcept = 0;

  std::vector<std::int32_t> encode(std::string_view text) const;
  /// The text of the ids of one or several documents; ids outside of the vocabulary, which stand for no text, are skipped.
  std::string decode(std::span<const std::int32_t> ids) const;

 protected:
  Tokenizer() = default;
  Tokenizer(const Tokenizer&) = default;
  Tokenizer& operator=(const Tokenizer&) = default;
};

/// 257 ids: each byte is its own, and 256 ends a text.
std::unique_ptr<const Tokenizer> byte_tokenizer();

/// "bytes", or the file of a SentencePiece model (BPE or unigram, without normalisation rules), with the tokens that the files of a Hugging
/// Face directory beside it add (core/data/added_tokens.h). Throws InputError naming the file and what
/// it has that is not understood.
std::unique_ptr<const Tokenizer> open_tokenizer(const std::string& name);

/// Bytes that the targets of a batch decode to, rows with a target of -1 left out: the denominator of bits per byte, in which an end of
/// text counts nothing. ids, targets: (N) i32, each id being the token before its target.
Index target_bytes(const Tokenizer& tokenizer, const Tensor& ids, const Tensor& targets);

}  // namespace yard
