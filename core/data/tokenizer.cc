#include "core/data/tokenizer.h"

#include <array>
#include <filesystem>
#include <utility>

#include "core/data/added_tokens.h"
#include "core/data/sentencepiece.h"
#include "core/error.h"

namespace yard {

namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    for (std::size_t byte = 0; byte < characters_.size(); ++byte) {
      characters_[byte] = static_cast<char>(byte);
      table_.pieces.push_back({"", 0, PieceTable::Kind::byte, static_cast<unsigned char>(byte)});
    }
    table_.pieces.push_back({"<|endoftext|>", 0, PieceTable::Kind::control});
  }
  Index vocabulary() const noexcept override { return 257; }
  std::int32_t end_of_text() const noexcept override { return 256; }
  bool lossless() const noexcept override { return true; }
  bool splits_at_newlines() const noexcept override { return true; }
  using Tokenizer::encode;
  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override {
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  }
  std::string_view bytes(std::int32_t /*previous*/, std::int32_t id) const override {
    check(id >= 0 && id < vocabulary(), "token id ", id, " is outside of the vocabulary of ", vocabulary(), " of the tokenizer 'bytes'");
    return id == end_of_text() ? std::string_view() : std::string_view(&characters_[static_cast<std::size_t>(id)], 1);
  }
  const PieceTable& table() const noexcept override { return table_; }

 private:
  std::array<char, 256> characters_{};
  PieceTable table_;
};

}  // namespace

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  encode(text, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  std::int32_t previous = end_of_text();
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocabulary()) continue;
    text += bytes(previous, id);
    previous = id;
  }
  return text;
}

std::unique_ptr<const Tokenizer> byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

std::unique_ptr<const Tokenizer> open_tokenizer(const std::string& name) {
  check_input(!name.empty(), "no tokenizer is named; it must be 'bytes' or the file of a SentencePiece model");
  if (name == "bytes") return byte_tokenizer();
  auto model = std::make_unique<const SentencePiece>(name);
  TokenAdditions additions = read_token_additions(std::filesystem::absolute(name).parent_path().string(), *model);
  if (additions.empty()) return model;
  return std::make_unique<AddedTokens>(std::move(model), std::move(additions));
}

Index target_bytes(const Tokenizer& tokenizer, const Tensor& ids, const Tensor& targets) {
  const auto before = ids.values<std::int32_t>();
  const auto after = targets.values<std::int32_t>();
  check(before.size() == after.size(), "ids and targets differ: ", before.size(), " and ", after.size(), " rows");
  Index total = 0;
  for (std::size_t i = 0; i < after.size(); ++i) {
    if (after[i] >= 0) total += static_cast<Index>(tokenizer.bytes(before[i], after[i]).size());
  }
  return total;
}

}  // namespace yard
