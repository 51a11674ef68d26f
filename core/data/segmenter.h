#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace yard {

/// A piece of a SentencePiece model as the segmenters see it: its text holds ' ' for the model's space mark U+2581.
struct Piece {
  enum class Kind : std::uint8_t { normal, user_defined, unused, other };  // other: control, unknown and byte pieces match no text
  std::string text;
  float score = 0;
  Kind kind = Kind::normal;
  std::size_t bytes = 0;  // of the text as the model file has it
};

/// Receives the pieces of a text in order: an id of the model, or the bytes of a character that is in no piece.
class PieceSink {
 public:
  virtual ~PieceSink() = default;
  virtual void piece(std::int32_t id) = 0;
  virtual void unknown(std::string_view character) = 0;
};

/// Cuts valid UTF-8 into pieces of a model.
class Segmenter {
 public:
  virtual ~Segmenter() = default;
  virtual void segment(std::string_view text, PieceSink& sink) const = 0;
};

/// Byte-pair encoding as SentencePiece does it: of all neighbours whose union is a piece, those with the highest score are joined first,
/// the leftmost of equals; user-defined pieces are found first and never joined. Equal to its result on every text, but for pieces of the
/// kind `unused`, which are taken apart by what surrounds them nearby.
std::unique_ptr<Segmenter> make_bpe(const std::vector<Piece>& pieces);

/// The cut with the highest sum of scores (Viterbi; Kudo 2018), the sums in f32 from the start of the text and ties broken as SentencePiece
/// does, since that decides between cuts of almost equal scores. A text is cut line by line when no piece reaches across a newline.
std::unique_ptr<Segmenter> make_unigram(const std::vector<Piece>& pieces);

/// Length in bytes of the character that begins with this byte of valid UTF-8.
inline std::size_t character_bytes(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

}  // namespace yard
