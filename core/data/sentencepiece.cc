#include "core/data/sentencepiece.h"

#include <charconv>
#include <cmath>
#include <optional>
#include <unordered_set>
#include <utility>

#include "core/data/sentencepiece.pb.h"
#include "core/data/utf8.h"
#include "core/error.h"
#include "core/io/file.h"
#include "core/shown.h"

namespace yard {

namespace {

using Model = sentencepiece::Model;

constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581, which stands for a space in pieces

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (std::size_t found = text.find(from); found != std::string_view::npos; found = text.find(from)) {
    result += text.substr(0, found);
    result += to;
    text.remove_prefix(found + from.size());
  }
  return result += text;
}

/// The byte of a piece "<0x41>".
std::optional<unsigned char> byte_of(std::string_view piece) {
  unsigned value = 0;
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece.back() != '>') return std::nullopt;
  const auto [end, error] = std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
  if (error != std::errc() || end != piece.data() + 5) return std::nullopt;
  return static_cast<unsigned char>(value);
}

Model parse(const std::string& path) {
  const MappedFile file(path);
  Model model;
  const bool parsed =
      file.bytes().size() < (std::size_t{1} << 31) && model.ParseFromArray(file.bytes().data(), static_cast<int>(file.bytes().size()));
  check_input(parsed && model.pieces_size() > 0, "tokenizer ", path, " is not a SentencePiece model");
  return model;
}

/// Refuses what would be encoded differently from how the model was trained.
void check_supported(const std::string& path, const Model& model) {
  const auto type = model.trainer_spec().model_type();
  check_input(type == sentencepiece::TrainerSpec::BPE || type == sentencepiece::TrainerSpec::UNIGRAM, "tokenizer ", path,
              " is a model of type ", sentencepiece::TrainerSpec::ModelType_Name(type), "; BPE and UNIGRAM are understood");
  check_input(model.normalizer_spec().precompiled_charsmap().empty(), "tokenizer ", path, " normalises its text (rule '",
              shown(model.normalizer_spec().name()),
              "'), so that it could not be given back; train it with --normalization_rule_name=identity");
  check_input(model.denormalizer_spec().precompiled_charsmap().empty(), "tokenizer ", path,
              " has a denormalisation rule, which is not understood");
  check_input(!model.trainer_spec().treat_whitespace_as_suffix(), "tokenizer ", path,
              " treats spaces as suffixes, which is not understood");
}

Piece::Kind kind_of(Model::Piece::Type type) {
  switch (type) {
    case Model::Piece::NORMAL:
      return Piece::Kind::normal;
    case Model::Piece::USER_DEFINED:
      return Piece::Kind::user_defined;
    case Model::Piece::UNUSED:
      return Piece::Kind::unused;
    default:
      return Piece::Kind::other;
  }
}

PieceTable::Kind table_kind_of(Model::Piece::Type type) {
  switch (type) {
    case Model::Piece::UNKNOWN:
      return PieceTable::Kind::unknown;
    case Model::Piece::CONTROL:
      return PieceTable::Kind::control;
    case Model::Piece::USER_DEFINED:
      return PieceTable::Kind::user_defined;
    case Model::Piece::UNUSED:
      return PieceTable::Kind::unused;
    case Model::Piece::BYTE:
      return PieceTable::Kind::byte;
    default:
      return PieceTable::Kind::normal;
  }
}

/// Drops the spaces at both ends and all but one of several in a row.
std::string without_extra_spaces(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c != ' ' || (!result.empty() && result.back() != ' ')) result += c;
  }
  if (!result.empty() && result.back() == ' ') result.pop_back();
  return result;
}

}  // namespace

/// Gathers the ids of pieces; characters that are in no piece become bytes, or one unknown for a run of them.
class SentencePiece::Ids final : public PieceSink {
 public:
  Ids(const SentencePiece& model, std::vector<std::int32_t>& ids) : model_(model), ids_(ids) {}
  void piece(std::int32_t id) override {
    ids_.push_back(id);
    after_unknown_ = false;
  }
  void unknown(std::string_view character) override {
    if (model_.byte_fallback_) {
      for (const char c : character) ids_.push_back(model_.byte_ids_[static_cast<unsigned char>(c)]);
    } else if (!after_unknown_) {
      ids_.push_back(model_.unknown_);
      after_unknown_ = true;
    }
  }

 private:
  const SentencePiece& model_;
  std::vector<std::int32_t>& ids_;
  bool after_unknown_ = false;
};

SentencePiece::SentencePiece(const std::string& path) : path_(path) {
  const Model model = parse(path);
  check_supported(path, model);
  byte_fallback_ = model.trainer_spec().byte_fallback();
  dummy_prefix_ = model.normalizer_spec().add_dummy_prefix();
  remove_extra_whitespaces_ = model.normalizer_spec().remove_extra_whitespaces();
  // From here on a space stands for itself, and U+2581 is a character that no piece has: pieces that SentencePiece could match only with
  // text that never comes about are left out of the search.
  const bool escaped = model.normalizer_spec().escape_whitespaces();
  const std::string_view unreachable = escaped ? std::string_view(" ") : kSpace;
  byte_ids_.fill(-1);
  std::vector<Piece> pieces;
  std::unordered_set<std::string_view> names[2];  // of pieces that match text, and of those that do not
  // Without byte pieces one unknown stands for a run of characters, also across a newline.
  splits_at_newlines_ = byte_fallback_ && !dummy_prefix_ && !remove_extra_whitespaces_;
  for (int id = 0; id < model.pieces_size(); ++id) {
    const Model::Piece& entry = model.pieces(id);
    const std::string& name = entry.piece();
    check_input(!name.empty(), "tokenizer ", path, " is damaged: piece ", id, " is empty");
    check_input(std::isfinite(entry.score()), "tokenizer ", path, " is damaged: piece ", id, " has the score ", entry.score(),
                ", which is not finite");
    Piece piece{replaced(name, kSpace, " "), entry.score(), kind_of(entry.type()), name.size()};
    check_input(names[piece.kind == Piece::Kind::other ? 1 : 0].insert(name).second, "tokenizer ", path, " is damaged: it has the piece '",
                shown(name), "' twice");
    names_.push_back(name);
    surfaces_.push_back(piece.text);
    table_.pieces.push_back({piece.kind == Piece::Kind::other ? name : piece.text, entry.score(), table_kind_of(entry.type())});
    sheds_space_.push_back(piece.kind != Piece::Kind::other && piece.text[0] == ' ');
    if (entry.type() == Model::Piece::CONTROL) surfaces_.back().clear();
    if (entry.type() == Model::Piece::CONTROL && name == model.trainer_spec().eos_piece()) end_of_text_ = id;
    if (entry.type() == Model::Piece::CONTROL && name == model.trainer_spec().bos_piece()) table_.start_of_text = id;
    if (entry.type() == Model::Piece::UNKNOWN) {
      unknown_ = id;
      surfaces_.back() = model.trainer_spec().unk_surface();
    }
    if (entry.type() == Model::Piece::BYTE) {
      const auto byte = byte_of(name);
      check_input(byte.has_value(), "tokenizer ", path, " is damaged: '", shown(name), "' is no byte piece");
      byte_ids_[*byte] = id;
      table_.pieces.back().byte = *byte;
      surfaces_.back().assign(1, static_cast<char>(*byte));
      sheds_space_.back() = *byte == ' ';  // of a model that has no piece for a space
    }
    if (piece.kind != Piece::Kind::other && name.find(unreachable) != std::string::npos) {
      piece.kind = Piece::Kind::other;
      table_.pieces.back().kind = PieceTable::Kind::unreachable;
    }
    if (piece.kind != Piece::Kind::other && piece.text.size() > 1 && piece.text.find('\n') != std::string::npos)
      splits_at_newlines_ = false;
    pieces.push_back(std::move(piece));
  }
  check_input(unknown_ >= 0, "tokenizer ", path, " is damaged: it has no unknown piece");
  check_input(end_of_text_ >= 0, "tokenizer ", path, " has no control piece '", shown(model.trainer_spec().eos_piece()),
              "' to end a text with; train it with an eos_id that is not negative");
  if (byte_fallback_) {
    for (const std::int32_t id : byte_ids_) check_input(id >= 0, "tokenizer ", path, " is damaged: it lacks some of the 256 byte pieces");
  }
  table_.unigram = model.trainer_spec().model_type() == sentencepiece::TrainerSpec::UNIGRAM;
  table_.byte_fallback = byte_fallback_;
  table_.dummy_prefix = dummy_prefix_;
  table_.remove_extra_whitespaces = remove_extra_whitespaces_;
  table_.unknown = unknown_;
  segmenter_ = model.trainer_spec().model_type() == sentencepiece::TrainerSpec::BPE ? make_bpe(pieces) : make_unigram(pieces);
}

void SentencePiece::encode(std::string_view text, std::vector<std::int32_t>& ids, bool prefix) const {
  std::string changed;
  if (remove_extra_whitespaces_) text = changed = without_extra_spaces(text);
  if (dummy_prefix_ && prefix && !text.empty()) text = changed = ' ' + std::string(text);
  Ids sink(*this, ids);
  if (!byte_fallback_) {
    // Without byte pieces nothing is lossless anyway; what SentencePiece does is done.
    std::string repaired;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t valid = utf8_prefix(text.substr(at));
      repaired += text.substr(at, valid);
      at += valid;
      if (at < text.size()) repaired += "\xef\xbf\xbd", ++at;
    }
    segmenter_->segment(replaced(repaired, kSpace, " "), sink);
    return;
  }
  while (!text.empty()) {
    const std::size_t valid = utf8_prefix(text);
    segmenter_->segment(text.substr(0, valid), sink);
    text.remove_prefix(valid);
    if (text.empty()) break;
    sink.unknown(text.substr(0, 1));
    text.remove_prefix(1);
  }
}

std::string_view SentencePiece::bytes(std::int32_t previous, std::int32_t id) const {
  check(id >= 0 && id < vocabulary(), "token id ", id, " is outside of the vocabulary of ", vocabulary(), " of the tokenizer ", path_);
  std::string_view surface = surfaces_[static_cast<std::size_t>(id)];
  if (previous == end_of_text_ && (dummy_prefix_ || remove_extra_whitespaces_) && sheds_space_[static_cast<std::size_t>(id)])
    surface.remove_prefix(1);
  return surface;
}

}  // namespace yard
