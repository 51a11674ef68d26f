#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>

/// SentencePiece models, written byte by byte.
namespace yard::fuzz {

/// Seven bits per byte, the lowest first.
inline std::string varint(std::size_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7U) bytes += static_cast<char>((value & 0x7fU) | 0x80U);
  return bytes += static_cast<char>(value);
}

/// A field of a protobuf message: a whole number, or bytes.
inline std::string field(unsigned number, unsigned value) { return varint(number << 3U) + varint(value); }
inline std::string field(unsigned number, std::string_view bytes) {
  return varint(number << 3U | 2U) + varint(bytes.size()) + std::string(bytes);
}

enum class PieceType : unsigned { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

inline std::string piece(std::string_view text, PieceType type, float score = 0) {
  std::string bits(sizeof score, '\0');
  std::memcpy(bits.data(), &score, sizeof score);
  return field(1, field(1, text) + (score == 0 ? "" : varint(2U << 3U | 5U) + bits) + field(3, static_cast<unsigned>(type)));
}

/// 256 byte pieces, and the entry of the model that makes use of them.
inline std::string byte_pieces() {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string model = field(2, field(35, 1));
  for (std::size_t byte = 0; byte < 256; ++byte)
    model += piece(std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">", PieceType::byte);
  return model;
}

/// A model of a few pieces of every kind but bytes.
inline std::string small_model(bool unigram, bool prefix, bool extra_spaces_dropped) {
  using enum PieceType;
  return piece("<unk>", unknown) + piece("<s>", control) + piece("</s>", control) + piece("a", normal, -3) + piece("b", normal, -4) +
         piece("ab", normal, -1) + piece("\xe2\x96\x81", normal, -2) + piece("\xe2\x96\x81\x61", normal, -2.5F) +
         piece("<u>", user_defined) + piece("x", unused, -5) + piece("\xc3\xa9", normal, -6) + field(2, field(3, unigram ? 1 : 2)) +
         field(3, field(3, prefix ? 1 : 0) + field(4, extra_spaces_dropped ? 1 : 0));
}

}  // namespace yard::fuzz
