#include "core/data/hugging_face_tokenizer.h"
#include "core/io/json.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <set>

#include "core/data/segmenter.h"
#include "core/data/sentencepiece.pb.h"
#include "core/data/utf8.h"
#include "tests/support/support.h"

namespace yard {
namespace {

using nlohmann::json;
using test::TemporaryFolder;

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Lines that every machine of ours has, and what tokenizers stumble over.
const std::vector<std::string>& texts() {
  static const std::vector<std::string> lines = [] {
    std::vector<std::string> result = {"",
                                       " ",
                                       "   two  spaces   ",
                                       "\ttab\r\n\n\nlines\n",
                                       "na\xc3\xafve caf\xc3\xa9 \xe2\x80\x9cquoted\xe2\x80\x9d \xf0\x9f\x99\x82\xf0\x9f\x99\x82",
                                       "\xe2\x96\x81 the\xe2\x96\x81the \xe2\x96\x81",
                                       "<unk></s><s><0x41><|endoftext|><piece 3>",
                                       std::string(77, '='),
                                       std::string(60, ' ') + "x",
                                       std::string("zero\0byte", 9)};
    std::ifstream file("/usr/share/common-licenses/GPL-3", std::ios::binary);
    for (std::string line, before; std::getline(file, line) && result.size() < 900; before = line) {
      result.push_back(line);
      if (result.size() % 5 == 0) result.push_back(before + "\n" + line);
    }
    return result;
  }();
  return lines;
}

/// A model trained once with these options beside those that all have.
const std::string& model(const std::string& options) {
  static const TemporaryFolder folder;
  static std::map<std::string, std::string> models;
  if (models.contains(options)) return models[options];
  const std::string prefix = folder / std::to_string(models.size());
  const std::string without = folder / "without";  // two letters of "<0x41>"
  if (!std::filesystem::exists(without)) test::run_command("tr -d '<x' < /usr/share/common-licenses/GPL-3 > " + without);
  const auto trained =
      test::run_command("cd " + folder.path() + " && spm_train --model_prefix=" + prefix +
                        " --vocab_size=800 --normalization_rule_name=identity --allow_whitespace_only_pieces=true --byte_fallback=true "
                        "--remove_extra_whitespaces=false --minloglevel=2 " +
                        (options.find("--input=") == std::string::npos ? "--input=/usr/share/common-licenses/GPL-3 " : "") + options);
  EXPECT_EQ(trained.code, 0) << trained.err;
  return models[options] = prefix + ".model";
}

const std::string kOurs = "--add_dummy_prefix=false --user_defined_symbols='\n' --bos_id=-1 --eos_id=1 --model_type=";

std::vector<std::string> characters_of(const std::string& text) {
  std::vector<std::string> characters;
  for (std::size_t at = 0; at < text.size(); at += characters.back().size())
    characters.push_back(text.substr(at, character_bytes(text[at])));
  return characters;
}

void append_bytes(const std::string& character, const json& ids_by_name, std::vector<std::int32_t>& ids) {
  for (const char c : character) {
    char name[7];
    std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned char>(c));
    ids.push_back(ids_by_name.at(name));
  }
}

/// Byte-pair encoding as the library `tokenizers` does it, by the book: of all neighbours in the merge list the one of the lowest rank, the
/// leftmost of equals, until there is none; added tokens that are not special are cut out first.
class PlainBpe {
 public:
  explicit PlainBpe(const json& file) : ids_(file.at("model").at("vocab")) {
    for (const json& merge : file.at("model").at("merges"))
      ranks_.emplace(std::pair<std::string, std::string>(merge[0], merge[1]), ranks_.size());
    for (const json& token : file.at("added_tokens")) {
      if (!token.at("special").get<bool>()) cut_out_.insert(token.at("content").get<std::string>());
    }
    if (!file.at("normalizer").is_null()) prefix_ = file.at("normalizer").at("normalizers").at(0).at("prepend");
  }
  std::vector<std::int32_t> encode(const std::string& text) const {
    std::vector<std::int32_t> ids;
    std::string part;
    for (std::size_t at = 0; at < text.size();) {
      std::size_t size = 0;
      for (const std::string& token : cut_out_) {
        if (text.compare(at, token.size(), token) == 0) size = std::max(size, token.size());
      }
      if (size == 0) {
        part += text[at++];
        continue;
      }
      join(part, ids);
      part.clear();
      ids.push_back(ids_.at(text.substr(at, size)));
      at += size;
    }
    join(part, ids);
    return ids;
  }

 private:
  void join(const std::string& text, std::vector<std::int32_t>& ids) const {
    if (text.empty()) return;
    std::vector<std::string> parts = characters_of(prefix_ + text);
    while (true) {
      std::size_t best = std::numeric_limits<std::size_t>::max();
      std::size_t at = 0;
      for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto found = ranks_.find({parts[i], parts[i + 1]});
        if (found != ranks_.end() && found->second < best) best = found->second, at = i;
      }
      if (best == std::numeric_limits<std::size_t>::max()) break;
      parts[at] += parts[at + 1];
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    for (const std::string& part : parts) {
      if (ids_.contains(part)) {
        ids.push_back(ids_.at(part));
      } else {
        append_bytes(part, ids_, ids);
      }
    }
  }

  json ids_;
  std::map<std::pair<std::string, std::string>, std::size_t> ranks_;
  std::set<std::string> cut_out_;
  std::string prefix_;
};

void expect_same_ids(const Tokenizer& tokenizer, const HuggingFaceTokenizer& files) {
  const PlainBpe theirs(parse_json(files.tokenizer_json));
  std::size_t different = 0;
  for (const std::string& text : texts()) {
    const auto ids = tokenizer.encode(text);
    if (ids != theirs.encode(text) && ++different < 4) ADD_FAILURE() << "other ids for '" << text << "'";
  }
  EXPECT_EQ(different, 0U);
}

TEST(HuggingFaceTokenizer, MergesGiveOurIds) {
  const auto tokenizer = open_tokenizer(model(kOurs + "bpe"));
  const auto files = hugging_face_tokenizer(*tokenizer);
  EXPECT_EQ(files.differs, "");
  expect_same_ids(*tokenizer, files);
  const json file = parse_json(files.tokenizer_json);
  std::set<std::string> made;
  for (const json& merge : file.at("model").at("merges")) made.insert(merge[0].get<std::string>() + merge[1].get<std::string>());
  EXPECT_EQ(made.size(), file.at("model").at("merges").size()) << "a piece has more than one merge";
  EXPECT_GT(made.size(), 300U);
}

TEST(HuggingFaceTokenizer, ADummyPrefixAndUserDefinedPiecesAreTheirs) {
  for (const char* options : {"--model_type=bpe --add_dummy_prefix=true",
                              "--model_type=bpe --add_dummy_prefix=false --user_defined_symbols='\n,==,the,them,soft,   '"}) {
    const auto tokenizer = open_tokenizer(model(options));
    const auto files = hugging_face_tokenizer(*tokenizer);
    EXPECT_EQ(files.differs, "") << options;
    expect_same_ids(*tokenizer, files);
    EXPECT_EQ(parse_json(files.config_json).at("bos_token"), "<s>");
  }
  const json prefixed =
      parse_json(hugging_face_tokenizer(*open_tokenizer(model("--model_type=bpe --add_dummy_prefix=true"))).tokenizer_json);
  EXPECT_EQ(prefixed.at("decoder").at("decoders").back(), parse_json(R"({"type": "Strip", "content": " ", "start": 1, "stop": 0})"));
}

TEST(HuggingFaceTokenizer, BytesAreBytePieces) {
  const auto tokenizer = byte_tokenizer();
  const auto files = hugging_face_tokenizer(*tokenizer);
  EXPECT_EQ(files.differs, "");
  expect_same_ids(*tokenizer, files);
  EXPECT_EQ(parse_json(files.tokenizer_json).at("model").at("vocab").size(), 257U);
}

TEST(HuggingFaceTokenizer, EveryIdHasANameAndTheEndOfTextIsSpecial) {
  for (const std::string& name : {std::string("bytes"), model(kOurs + "bpe")}) {
    const auto tokenizer = open_tokenizer(name);
    const auto files = hugging_face_tokenizer(*tokenizer);
    const json file = parse_json(files.tokenizer_json);
    const json config = parse_json(files.config_json);
    std::set<std::int32_t> ids;
    for (const auto& [piece, id] : file.at("model").at("vocab").items()) ids.insert(id.get<std::int32_t>());
    EXPECT_EQ(static_cast<Index>(ids.size()), tokenizer->vocabulary());
    EXPECT_EQ(*ids.begin(), 0);
    EXPECT_EQ(*ids.rbegin(), tokenizer->vocabulary() - 1);
    EXPECT_EQ(file.at("model").at("vocab").at(config.at("eos_token").get<std::string>()), tokenizer->end_of_text());
    EXPECT_EQ(config.at("bos_token"), config.at("eos_token")) << "an end of text stands before a text";
    bool special = false;
    for (const json& token : file.at("added_tokens"))
      special = special || (token.at("id") == tokenizer->end_of_text() && token.at("special"));
    EXPECT_TRUE(special);
    EXPECT_EQ(config.at("tokenizer_class"), "PreTrainedTokenizerFast");
    EXPECT_EQ(config.at("split_special_tokens"), true);
    EXPECT_EQ(config.at("clean_up_tokenization_spaces"), false);
    EXPECT_EQ(config.at("add_bos_token"), false);
    EXPECT_EQ(config.at("add_eos_token"), false);
    EXPECT_TRUE(file.at("post_processor").is_null());
  }
}

/// The cut with the highest sum of scores, summed in f64 from the start, as `tokenizers` does it; ids and sum.
std::pair<std::vector<std::int32_t>, double> plain_unigram(const json& file, const std::string& text) {
  std::map<std::string, std::pair<std::int32_t, double>> pieces;
  double lowest = 0;
  json ids_by_name;
  for (const json& entry : file.at("model").at("vocab")) {
    ids_by_name[entry[0].get<std::string>()] = pieces.size();
    pieces.emplace(entry[0].get<std::string>(), std::pair(static_cast<std::int32_t>(pieces.size()), entry[1].get<double>()));
    lowest = std::min(lowest, entry[1].get<double>());
  }
  std::set<std::string> alone;
  if (!file.at("pre_tokenizer").is_null()) {
    for (const json& split : file.at("pre_tokenizer").at("pretokenizers"))
      alone.insert(split.at("pattern").at("String").get<std::string>());
  }
  std::vector<std::int32_t> ids;
  double total = 0;
  const auto segment = [&](const std::vector<std::string>& characters) {
    struct Best {
      double score = -std::numeric_limits<double>::infinity();
      std::size_t start = 0;
      std::string text;
    };
    std::vector<Best> best(characters.size() + 1);
    best[0].score = 0;
    for (std::size_t start = 0; start < characters.size(); ++start) {
      std::string part;
      for (std::size_t end = start; end < std::min(characters.size(), start + 20); ++end) {
        part += characters[end];
        const auto found = pieces.find(part);
        if (found == pieces.end() && end > start) continue;
        const double score = best[start].score + (found == pieces.end() ? lowest - 10 : found->second.second);
        if (score > best[end + 1].score) best[end + 1] = {score, start, part};
      }
    }
    std::vector<std::string> parts;
    for (std::size_t end = characters.size(); end > 0; end = best[end].start) parts.insert(parts.begin(), best[end].text);
    total += best.back().score;
    for (const std::string& part : parts) {
      if (pieces.contains(part)) {
        ids.push_back(pieces.at(part).first);
      } else {
        append_bytes(part, ids_by_name, ids);
      }
    }
  };
  std::vector<std::string> chunk;
  for (const std::string& character : characters_of(text)) {
    if (alone.contains(character)) {
      segment(chunk);
      segment({character});
      chunk.clear();
    } else {
      chunk.push_back(character);
    }
  }
  segment(chunk);
  return {ids, total};
}

TEST(HuggingFaceTokenizer, UnigramGivesOurIdsButForTies) {
  const auto tokenizer = open_tokenizer(model(kOurs + "unigram"));
  const auto files = hugging_face_tokenizer(*tokenizer);
  EXPECT_NE(files.differs.find("rounding"), std::string::npos);
  const json file = parse_json(files.tokenizer_json);
  std::size_t equal = 0;
  for (std::size_t i = 0; i < texts().size(); i += 3) {
    const auto ours = tokenizer->encode(texts()[i]);
    const auto [ids, sum] = plain_unigram(file, texts()[i]);
    equal += ours == ids ? 1 : 0;
    double of_ours = 0;
    double of_theirs = 0;
    for (const std::int32_t id : ours) of_ours += file.at("model").at("vocab").at(static_cast<std::size_t>(id)).at(1).get<double>();
    for (const std::int32_t id : ids) of_theirs += file.at("model").at("vocab").at(static_cast<std::size_t>(id)).at(1).get<double>();
    EXPECT_NEAR(of_ours, of_theirs, 1e-5 * std::abs(of_theirs)) << texts()[i];
  }
  EXPECT_GT(equal, texts().size() / 3 * 9 / 10);
}

TEST(HuggingFaceTokenizer, NamesInATextAreText) {
  for (const char* options : {"unigram", "bpe", "unigram --input=without", "bpe --input=without"}) {
    const auto tokenizer = open_tokenizer(model(kOurs + options));
    const json file = parse_json(hugging_face_tokenizer(*tokenizer).tokenizer_json);
    for (const char* text : {"</s>", "<unk>", "<0x41>", " and <0x41></s> or <0xE2>", "x", "<piece 3>"}) {
      const bool unigram = file.at("model").at("type") == "Unigram";
      EXPECT_EQ(unigram ? plain_unigram(file, text).first : PlainBpe(file).encode(text), tokenizer->encode(text))
          << options << ": " << text;
    }
  }
}

TEST(HuggingFaceTokenizer, SaysWhatCannotBeExpressed) {
  const TemporaryFolder folder;
  const auto differs = [&](const std::function<void(sentencepiece::Model&)>& change) {
    sentencepiece::Model changed;
    EXPECT_TRUE(changed.ParseFromString(contents(model(kOurs + "bpe"))));
    change(changed);
    std::ofstream(folder / "changed", std::ios::binary) << changed.SerializeAsString();
    const auto files = hugging_face_tokenizer(*open_tokenizer(folder / "changed"));
    EXPECT_TRUE(json::accept(files.tokenizer_json));
    return files.differs;
  };
  using Piece = sentencepiece::Model::Piece;
  EXPECT_EQ(differs([](auto&) {}), "");
  EXPECT_NE(differs([](auto& bad) { bad.mutable_pieces(300)->set_type(Piece::UNUSED); }).find("unused"), std::string::npos);
  EXPECT_NE(differs([](auto& bad) { bad.mutable_pieces(300)->set_score(bad.pieces(301).score()); }).find("equal score"), std::string::npos);
  EXPECT_NE(differs([](auto& bad) { bad.mutable_pieces(bad.pieces_size() - 1)->set_piece("\xc3\xa6\xc3\xb8"); }).find("no piece"),
            std::string::npos);
  EXPECT_NE(differs([](auto& bad) { bad.mutable_pieces(300)->set_piece("<0x41>"); }).find("another id"), std::string::npos);
  EXPECT_EQ(differs([](auto& bad) { bad.mutable_pieces(300)->set_piece("a literal space"); }), "") << "no text has it";
}

}  // namespace
}  // namespace yard
