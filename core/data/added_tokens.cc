#include "core/data/added_tokens.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "core/data/utf8.h"
#include "core/error.h"
#include "core/io/file.h"
#include "core/io/json.h"
#include "core/shown.h"

namespace yard {

namespace {

using nlohmann::json;
using Kind = PieceTable::Kind;
using Prefix = PieceTable::Prefix;

constexpr std::int64_t kMostUnused = 65536;  // ids between the model's and the last added token that have none

/// A token as the files declare it.
struct Declared {
  TokenAdditions::Token token;
  bool special = false;
  bool in_config = false;  // by tokenizer_config.json or added_tokens.json, which list only what was added to the model
};

/// The object in a file, empty where there is no such file.
json object_in(const std::string& path) { return path_exists(path) ? read_json_object(path) : json::object(); }

bool flag(const json& object, const char* name, bool otherwise = false) {
  const auto found = object.find(name);
  return found != object.end() && found->is_boolean() ? found->get<bool>() : otherwise;
}

/// Collects what the files declare, and rejects contradictions between them.
class Declarations {
 public:
  void add(const std::string& path, std::int64_t id, const json& entry, bool in_config) {
    const auto content = entry.find("content");
    check_input(content != entry.end() && content->is_string() && !content->get_ref<const std::string&>().empty(), "added token ", id,
                " of ", path, " has no content");
    const auto& text = content->get_ref<const std::string&>();
    check_input(id >= 0 && id < std::int64_t{1} << 31, "added token '", shown(text), "' of ", path, " has the id ", id,
                ", which is not from 0 to 2147483647");
    check_input(!flag(entry, "single_word"), "added token '", shown(text), "' of ", path,
                " has single_word true, which is not supported: set it to false if texts may hold the token inside of a word");
    Declared declared;
    declared.token = {static_cast<std::int32_t>(id), text, flag(entry, "lstrip"), flag(entry, "rstrip"), true};
    declared.special = flag(entry, "special");
    declared.in_config = in_config;
    const auto [earlier, first] = by_id_.emplace(declared.token.id, declared);
    check_input(first || earlier->second.token.text == text, "added token ", id, " is '", shown(text), "' in ", path, " and '",
                shown(earlier->second.token.text), "' in another file beside it");
    const auto [same, unique] = ids_.emplace(text, declared.token.id);
    check_input(unique || same->second == declared.token.id, "added token '", shown(text), "' of ", path, " has two ids, ", same->second,
                " and ", id);
  }
  const std::map<std::int32_t, Declared>& by_id() const noexcept { return by_id_; }

 private:
  std::map<std::int32_t, Declared> by_id_;
  std::map<std::string, std::int32_t> ids_;
};

/// "first" or "never" where a step of the pre-tokenizer of tokenizer.json says so.
std::string prepend_scheme(const json& step) {
  if (!step.is_object()) return "";
  if (const auto scheme = step.find("prepend_scheme"); scheme != step.end() && scheme->is_string()) return scheme->get<std::string>();
  const auto steps = step.find("pretokenizers");
  if (steps == step.end() || !steps->is_array()) return "";
  for (const json& each : *steps) {
    if (const std::string scheme = prepend_scheme(each); !scheme.empty()) return scheme;
  }
  return "";
}

/// Where a declared token is a piece of the model, whether a text can write it. Throws when it is another piece.
bool is_added(const Declared& declared, const SentencePiece& model, const std::string& folder) {
  const auto& [id, text, left, right, matched] = declared.token;
  if (id >= model.vocabulary()) return true;
  const PieceTable& table = model.table();
  if (id == table.unknown || id == table.start_of_text || id == model.end_of_text()) return false;
  const PieceTable::Piece& piece = table.pieces[static_cast<std::size_t>(id)];
  if (piece.kind == Kind::byte) return false;
  const bool same = piece.text == text || model.name(id) == text;
  // Unused pieces are taken apart, except by byte-pair encoding where they are single characters.
  const bool character = utf8_prefix(piece.text) == piece.text.size() && character_bytes(piece.text[0]) == piece.text.size();
  const bool has_text = piece.kind == Kind::normal || piece.kind == Kind::user_defined || (piece.kind == Kind::unused && character);
  check_input(same || !has_text, "added token ", id, " is '", shown(text), "' in the files of ", folder, ", but '", shown(piece.text),
              "' in the SentencePiece model beside them");
  // SentencePiece finds these by itself; tokenizer.json lists them, although nobody added them.
  return !(same && piece.kind == Kind::user_defined && !declared.in_config && !left && !right);
}

/// Bytes of the white space that a text begins with (Unicode's White_Space).
std::size_t leading_space(std::string_view text) {
  constexpr std::array<std::string_view, 19> kWide = {"\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81",
                                                      "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
                                                      "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
                                                      "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
  std::size_t at = 0;
  while (at < text.size()) {
    if (std::string_view(" \t\n\v\f\r").find(text[at]) != std::string_view::npos) {
      ++at;
      continue;
    }
    const auto found = std::find_if(kWide.begin(), kWide.end(), [&](std::string_view wide) { return text.substr(at).starts_with(wide); });
    if (found == kWide.end()) break;
    at += found->size();
  }
  return at;
}

std::string_view without_trailing_space(std::string_view text) {
  // Characters are at most three bytes here: the end is white space where some suffix of that size is nothing else.
  for (bool found = true; found;) {
    found = false;
    for (std::size_t size = 1; size <= 3 && size <= text.size() && !found; ++size) {
      found = leading_space(text.substr(text.size() - size)) == size;
      if (found) text.remove_suffix(size);
    }
  }
  return text;
}

}  // namespace

TokenAdditions read_token_additions(const std::string& folder, const SentencePiece& model) {
  const std::string config_path = folder + "/tokenizer_config.json";
  const std::string json_path = folder + "/tokenizer.json";
  const std::string legacy_path = folder + "/added_tokens.json";
  const json config = object_in(config_path);
  const json file = object_in(json_path);
  const json legacy = object_in(legacy_path);
  Declarations declarations;
  if (const auto decoder = config.find("added_tokens_decoder"); decoder != config.end() && decoder->is_object()) {
    for (const auto& [key, entry] : decoder->items()) {
      const bool number = !key.empty() && key.size() <= 10 && key.find_first_not_of("0123456789") == std::string::npos;
      check_input(number && entry.is_object(), "added_tokens_decoder of ", config_path, " has the entry '", shown(key),
                  "'; each must be an id with an object");
      declarations.add(config_path, std::stoll(key), entry, true);
    }
  }
  for (const auto& [text, id] : legacy.items()) {
    const auto number = whole_number(id);
    check_input(number.has_value(), "", legacy_path, " has no id for '", shown(text), "'; it must hold texts with an id each");
    declarations.add(legacy_path, *number, {{"content", text}}, true);
  }
  if (const auto list = file.find("added_tokens"); list != file.end() && list->is_array()) {
    for (const json& entry : *list) {
      const auto id = entry.is_object() ? entry.find("id") : entry.end();
      const auto number = entry.is_object() && id != entry.end() ? whole_number(*id) : std::nullopt;
      check_input(number.has_value(), "added_tokens of ", json_path, " has an entry without an id");
      declarations.add(json_path, *number, entry, false);
    }
  }

  TokenAdditions additions;
  const bool split_special = flag(config, "split_special_tokens");
  for (const auto& [id, declared] : declarations.by_id()) {
    const bool matched = !declared.special || !split_special;
    if ((!matched && id < model.vocabulary()) || !is_added(declared, model, folder)) continue;
    additions.tokens.push_back(declared.token);
    additions.tokens.back().matched = matched;
  }
  if (!additions.tokens.empty()) {
    const std::int64_t last = additions.tokens.back().id;
    const auto known = static_cast<std::int64_t>(model.vocabulary()) + static_cast<std::int64_t>(additions.tokens.size());
    check_input(last < known + kMostUnused, "added token '", shown(additions.tokens.back().text), "' of ", folder, " has the id ", last,
                ", but ", known, " tokens are known: more than ", kMostUnused, " ids would have none");
  }
  const std::string scheme = file.contains("pre_tokenizer") ? prepend_scheme(file["pre_tokenizer"]) : "";
  if (!model.table().dummy_prefix) return additions;
  if (scheme == "never") {
    additions.prefix = Prefix::never;
  } else if (!flag(config, "legacy", true) || scheme == "first") {
    additions.prefix = Prefix::first;
  }
  return additions;
}

AddedTokens::AddedTokens(std::unique_ptr<const SentencePiece> model, TokenAdditions additions)
    : model_(std::move(model)), additions_(std::move(additions)), table_(model_->table()) {
  lossless_ = model_->lossless();
  splits_at_newlines_ = model_->splits_at_newlines();
  table_.prefix = additions_.prefix;
  for (std::size_t number = 0; number < additions_.tokens.size(); ++number) {
    const TokenAdditions::Token& token = additions_.tokens[number];
    const auto id = static_cast<std::size_t>(token.id);
    if (token.matched) trie_.insert(token.text, static_cast<std::int32_t>(number));
    while (table_.pieces.size() <= id) {
      PieceTable::Piece hole;
      hole.kind = Kind::unreachable;
      table_.pieces.push_back(hole);
    }
    table_.pieces[id].text = token.text;
    table_.pieces[id].kind = token.matched ? Kind::user_defined : Kind::control;
    if (!token.matched) continue;
    table_.added.push_back({token.id, token.absorbs_left, token.absorbs_right});
    const bool absorbs = token.absorbs_left || token.absorbs_right;
    lossless_ = lossless_ && !absorbs;
    splits_at_newlines_ = splits_at_newlines_ && !absorbs && token.text.find('\n') == std::string::npos;
  }
}

void AddedTokens::encode(std::string_view text, std::vector<std::int32_t>& ids) const {
  bool first = true;
  const auto segment = [&](std::string_view part) {
    if (!part.empty()) model_->encode(part, ids, additions_.prefix == Prefix::each || (additions_.prefix == Prefix::first && first));
  };
  std::size_t begin = 0;  // of what is not encoded yet
  for (std::size_t at = 0; at < text.size();) {
    std::int32_t number = -1;
    const std::size_t size = trie_.longest_prefix(text.substr(at), number);
    if (size == 0) {
      ++at;
      continue;
    }
    const TokenAdditions::Token& token = additions_.tokens[static_cast<std::size_t>(number)];
    const std::string_view before = text.substr(begin, at - begin);
    segment(token.absorbs_left ? without_trailing_space(before) : before);
    ids.push_back(token.id);
    first = false;
    at += size;
    if (token.absorbs_right) at += leading_space(text.substr(at));
    begin = at;
  }
  segment(text.substr(begin));
}

std::int32_t AddedTokens::number_of(std::int32_t id) const {
  const auto found = std::lower_bound(additions_.tokens.begin(), additions_.tokens.end(), id,
                                      [](const TokenAdditions::Token& token, std::int32_t other) { return token.id < other; });
  return found != additions_.tokens.end() && found->id == id ? static_cast<std::int32_t>(found - additions_.tokens.begin()) : -1;
}

std::string_view AddedTokens::bytes(std::int32_t previous, std::int32_t id) const {
  check(id >= 0 && id < vocabulary(), "token id ", id, " is outside of the vocabulary of ", vocabulary(),
        " of a tokenizer with added tokens");
  if (const std::int32_t number = number_of(id); number >= 0) return additions_.tokens[static_cast<std::size_t>(number)].text;
  if (id >= model_->vocabulary()) return {};
  // The space that was put before a stretch of text is not part of it.
  const bool begins = previous == end_of_text() || (additions_.prefix == Prefix::each && number_of(previous) >= 0);
  const bool sheds = begins && additions_.prefix != Prefix::never;
  return model_->bytes(sheds ? end_of_text() : -1, id);
}

}  // namespace yard
