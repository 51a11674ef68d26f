#include "core/data/hugging_face_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/data/segmenter.h"
#include "core/data/utf8.h"
#include "core/io/json.h"
#include "core/shown.h"

namespace yard {

namespace {

using Json = nlohmann::ordered_json;
using Kind = PieceTable::Kind;

std::vector<std::string_view> characters_of(std::string_view text) {
  std::vector<std::string_view> characters;
  while (!text.empty()) {
    characters.push_back(text.substr(0, character_bytes(text[0])));
    text.remove_prefix(characters.back().size());
  }
  return characters;
}

/// A vocabulary as the library `tokenizers` sees it: every id has a name of its own, and names match text unless something prevents it.
class Vocabulary {
 public:
  explicit Vocabulary(const PieceTable& table) : table_(table), names_(table.pieces.size()) {
    for (const Kind kind : {Kind::byte, Kind::normal, Kind::user_defined, Kind::control, Kind::unknown, Kind::unused, Kind::unreachable}) {
      for (std::size_t id = 0; id < names_.size(); ++id) {
        if (table.pieces[id].kind == kind) give_name(id);
      }
    }
    for (const auto& [text, id] : matching_) {
      if (table.pieces[static_cast<std::size_t>(id)].kind != Kind::normal) continue;
      for (const std::string_view character : characters_of(text)) {
        if (!matching_.contains(character))
          differ(fmt::format("on the character '{}', which has no piece but is part of some", shown(character)));
      }
    }
  }

  const std::string& name(std::int32_t id) const { return names_[static_cast<std::size_t>(id)]; }
  const std::vector<std::string>& names() const noexcept { return names_; }
  /// The normal or user-defined piece of a text, -1 when there is none.
  std::int32_t find(std::string_view text) const {
    const auto found = matching_.find(text);
    return found == matching_.end() ? -1 : found->second;
  }
  bool matches(std::size_t id) const { return find(names_[id]) == static_cast<std::int32_t>(id); }
  void differ(const std::string& where) {
    if (differs_.empty()) differs_ = where;
  }
  const std::string& differs() const noexcept { return differs_; }

 private:
  void give_name(std::size_t id) {
    const PieceTable::Piece& piece = table_.pieces[id];
    const bool text = piece.kind == Kind::normal || piece.kind == Kind::user_defined;
    // A byte's name is how `tokenizers` finds it. What no text matches must not be a name that some text has.
    std::string name = piece.kind == Kind::byte ? fmt::format("<0x{:02X}>", piece.byte) : piece.text;
    if (piece.kind == Kind::unreachable || piece.kind == Kind::unused || utf8_prefix(name) != name.size() || taken_.contains(name)) {
      if (text && utf8_prefix(name) == name.size())
        differ(fmt::format("on the text '{}', which is also the name of another id", shown(name)));
      if (piece.kind == Kind::unused) differ("on texts with pieces that are marked as unused");
      name = fmt::format("<piece {}>", id);
      while (taken_.contains(name)) name += '>';
    }
    names_[id] = name;
    taken_.insert(name);
    if (text && name == piece.text) matching_.emplace(piece.text, static_cast<std::int32_t>(id));
  }

  const PieceTable& table_;
  std::vector<std::string> names_;
  std::set<std::string> taken_;
  std::unordered_map<std::string_view, std::int32_t> matching_;  // views of the table's texts
  std::string differs_;
};

struct Merge {
  float score;
  std::int32_t id, left, right;
};

/// The last join that byte-pair encoding by score makes of a piece's characters, or none (id -1) when they do not become the piece.
Merge last_join(const PieceTable& table, const Vocabulary& vocabulary, std::int32_t id) {
  const auto score_of = [&](std::int32_t piece) { return table.pieces[static_cast<std::size_t>(piece)].score; };
  std::vector<std::string_view> parts = characters_of(table.pieces[static_cast<std::size_t>(id)].text);
  Merge last{0, -1, -1, -1};
  while (parts.size() > 1) {
    std::size_t at = 0;
    std::int32_t best = -1;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      if (vocabulary.find(parts[i]) < 0 || vocabulary.find(parts[i + 1]) < 0) continue;
      const std::int32_t joined = vocabulary.find({parts[i].data(), parts[i].size() + parts[i + 1].size()});
      if (joined >= 0 && (best < 0 || score_of(joined) > score_of(best))) best = joined, at = i;
    }
    if (best < 0) return {0, -1, -1, -1};
    last = {score_of(best), best, vocabulary.find(parts[at]), vocabulary.find(parts[at + 1])};
    parts[at] = {parts[at].data(), parts[at].size() + parts[at + 1].size()};
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  return last;
}

Json merges_of(const PieceTable& table, Vocabulary& vocabulary) {
  std::vector<std::string_view> user_defined;
  for (const PieceTable::Piece& piece : table.pieces) {
    if (piece.kind == Kind::user_defined) user_defined.push_back(piece.text);
  }
  std::vector<Merge> merges;
  for (std::size_t id = 0; id < table.pieces.size(); ++id) {
    const std::string& text = table.pieces[id].text;
    if (table.pieces[id].kind != Kind::normal || !vocabulary.matches(id)) continue;
    // User-defined pieces are cut out of a text first, so that no other piece is ever made of them.
    if (std::any_of(user_defined.begin(), user_defined.end(), [&](std::string_view user) { return text.find(user) != std::string::npos; }))
      continue;
    const Merge merge = last_join(table, vocabulary, static_cast<std::int32_t>(id));
    if (merge.id >= 0) merges.push_back(merge);
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) { return a.score > b.score; });
  Json list = Json::array();
  for (std::size_t i = 0; i < merges.size(); ++i) {
    list.push_back(Json::array({vocabulary.name(merges[i].left), vocabulary.name(merges[i].right)}));
    if (i > 0 && merges[i].score == merges[i - 1].score)
      vocabulary.differ(fmt::format("where the pieces '{}' and '{}' of equal score are beside each other",
                                    shown(vocabulary.name(merges[i - 1].id)), shown(vocabulary.name(merges[i].id))));
  }
  return list;
}

Json bpe_model(const PieceTable& table, Vocabulary& vocabulary) {
  Json::object_t ids;
  for (std::size_t id = 0; id < table.pieces.size(); ++id) {
    // Appended below the map's own insertion, whose search for equal keys takes a square of steps; names are distinct.
    ids.Json::object_t::Container::emplace_back(vocabulary.names()[id], id);
  }
  Json merges = merges_of(table, vocabulary);
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", table.unknown >= 0 ? Json(vocabulary.name(table.unknown)) : Json()},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", true},
          {"byte_fallback", table.byte_fallback},
          {"ignore_merges", false},
          {"vocab", std::move(ids)},
          {"merges", std::move(merges)}};
}

/// Every name is searched for in the text here, so those that stand for no text get a score that is worse than their characters one by one.
Json unigram_model(const PieceTable& table, Vocabulary& vocabulary) {
  double lowest = 0;
  double highest = std::numeric_limits<float>::min();
  std::size_t longest = 0;
  for (std::size_t id = 0; id < table.pieces.size(); ++id) {
    if (table.pieces[id].kind == Kind::normal) {
      lowest = std::min(lowest, static_cast<double>(table.pieces[id].score));
      highest = std::max(highest, static_cast<double>(table.pieces[id].score));
    }
    longest = std::max(longest, vocabulary.names()[id].size());
  }
  const double never = static_cast<double>(longest + 1) * std::min(lowest, -1.0);
  Json entries = Json::array();
  for (std::size_t id = 0; id < table.pieces.size(); ++id) {
    const PieceTable::Piece& piece = table.pieces[id];
    double score = never;
    if (vocabulary.matches(id)) {
      const auto marks = static_cast<std::size_t>(std::count(piece.text.begin(), piece.text.end(), ' '));
      score = piece.kind == Kind::normal ? static_cast<double>(piece.score)
                                         : static_cast<double>(piece.text.size() + 2 * marks) * highest - 0.1;
    }
    entries.push_back(Json::array({vocabulary.names()[id], score}));
  }
  vocabulary.differ("where two cuts of a line have sums of scores that are equal to the rounding of a 32-bit float");
  return {{"type", "Unigram"},
          {"unk_id", table.unknown >= 0 ? Json(table.unknown) : Json()},
          {"vocab", std::move(entries)},
          {"byte_fallback", table.byte_fallback}};
}

/// Characters that are in names of the table's other ids and in no piece: cutting the text around them changes no cut, and hides the names.
Json unigram_pre_tokenizer(const PieceTable& table, const Vocabulary& vocabulary) {
  std::set<std::string_view> found, inside;
  for (std::size_t id = 0; id < table.pieces.size(); ++id) {
    for (const std::string_view character : characters_of(vocabulary.names()[id]))
      (vocabulary.matches(id) ? inside : found).insert(character);
  }
  Json list = Json::array();
  for (const std::string_view character : found) {
    if (inside.contains(character)) continue;
    list.push_back({{"type", "Split"}, {"pattern", {{"String", character}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  if (list.empty()) return {};
  return {{"type", "Sequence"}, {"pretokenizers", std::move(list)}};
}

Json normalizer_of(const PieceTable& table) {
  Json list = Json::array();
  const auto replace = [&](Json pattern, const char* content) {
    list.push_back({{"type", "Replace"}, {"pattern", std::move(pattern)}, {"content", content}});
  };
  if (table.remove_extra_whitespaces) {
    replace({{"Regex", "\\A +| +\\z"}}, "");
    replace({{"Regex", " {2,}"}}, " ");
  }
  if (table.dummy_prefix && table.prefix == PieceTable::Prefix::each) list.push_back({{"type", "Prepend"}, {"prepend", " "}});
  if (!table.byte_fallback) replace({{"String", "\xe2\x96\x81"}}, " ");
  if (list.empty()) return {};
  return {{"type", "Sequence"}, {"normalizers", std::move(list)}};
}

Json decoder_of(const PieceTable& table) {
  Json list = Json::array();
  if (table.byte_fallback) list.push_back({{"type", "ByteFallback"}});
  list.push_back({{"type", "Fuse"}});
  if (table.dummy_prefix && table.prefix != PieceTable::Prefix::never)
    list.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", std::move(list)}};
}

/// Puts a space before the first stretch of a text (unlike SentencePiece, not where it begins with one), or before none.
Json prefix_step(const PieceTable& table, Vocabulary& vocabulary) {
  const bool first = table.prefix == PieceTable::Prefix::first;
  if (first) vocabulary.differ("on texts that begin with a space");
  return {{"type", "Metaspace"}, {"replacement", " "}, {"prepend_scheme", first ? "first" : "never"}, {"split", false}};
}

Json added_tokens_of(const PieceTable& table, Vocabulary& vocabulary) {
  Json list = Json::array();
  for (std::size_t id = 0; id < table.pieces.size(); ++id) {
    const PieceTable::Piece& piece = table.pieces[id];
    const bool special = piece.kind == Kind::control || piece.kind == Kind::unknown;
    const auto added =
        std::find_if(table.added.begin(), table.added.end(), [&](const auto& each) { return each.id == static_cast<std::int32_t>(id); });
    if (added != table.added.end()) {
      // Not special, since special tokens that are written out in a text stay text there.
      list.push_back({{"id", id},
                      {"content", vocabulary.names()[id]},
                      {"single_word", false},
                      {"lstrip", added->absorbs_left},
                      {"rstrip", added->absorbs_right},
                      {"normalized", false},
                      {"special", false}});
      continue;
    }
    // One character that no merge takes part in needs no cutting out.
    const bool cut_out = piece.kind == Kind::user_defined && !table.unigram && characters_of(vocabulary.names()[id]).size() > 1;
    if (!special && !cut_out) continue;
    if (cut_out && (table.dummy_prefix || table.remove_extra_whitespaces))
      vocabulary.differ("after pieces that are marked as user-defined");
    list.push_back({{"id", id},
                    {"content", vocabulary.names()[id]},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", false},
                    {"special", special}});
  }
  return list;
}

}  // namespace

HuggingFaceTokenizer hugging_face_tokenizer(const Tokenizer& tokenizer) {
  const PieceTable& table = tokenizer.table();
  Vocabulary vocabulary(table);
  Json file = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  file["added_tokens"] = added_tokens_of(table, vocabulary);
  file["normalizer"] = normalizer_of(table);
  file["pre_tokenizer"] = table.unigram ? unigram_pre_tokenizer(table, vocabulary) : Json();
  if (table.dummy_prefix && table.prefix != PieceTable::Prefix::each) {
    Json steps = Json::array({prefix_step(table, vocabulary)});
    if (!file["pre_tokenizer"].is_null()) steps.push_back(file["pre_tokenizer"]);
    file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
  }
  file["post_processor"] = nullptr;
  file["decoder"] = decoder_of(table);
  file["model"] = table.unigram ? unigram_model(table, vocabulary) : bpe_model(table, vocabulary);
  // transformers takes tokenizer.json as it is for this class, in versions 4 and 5; a class of a model family would be built anew from it.
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  config["bos_token"] = vocabulary.name(table.start_of_text >= 0 ? table.start_of_text : tokenizer.end_of_text());
  config["eos_token"] = vocabulary.name(tokenizer.end_of_text());
  if (table.unknown >= 0) config["unk_token"] = vocabulary.name(table.unknown);
  config["add_bos_token"] = false;
  config["add_eos_token"] = false;
  config["add_prefix_space"] = false;
  config["split_special_tokens"] = true;
  config["clean_up_tokenization_spaces"] = false;
  for (const PieceTable::Added& added : table.added) {
    config["added_tokens_decoder"][std::to_string(added.id)] = {
        {"content", vocabulary.name(added.id)}, {"lstrip", added.absorbs_left}, {"normalized", false},
        {"rstrip", added.absorbs_right},        {"single_word", false},         {"special", false}};
  }
  return {file.dump(2) + "\n", config.dump(2) + "\n", vocabulary.differs()};
}

}  // namespace yard
