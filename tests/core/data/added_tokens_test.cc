#include "core/data/added_tokens.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/data/hugging_face_tokenizer.h"
#include "core/data/sentencepiece.pb.h"
#include "core/io/file.h"
#include "core/io/json.h"
#include "tests/support/support.h"

namespace yard {
namespace {

using nlohmann::json;
using test::TemporaryFolder;
namespace fs = std::filesystem;

const std::string kFixture = std::string(YARD_FIXTURES) + "/added_tokens/";

void put(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

std::string text_of(const std::string& path) { return std::string(MappedFile(path).text()); }

/// A folder with the fixture's model and one more file.
struct Folder {
  explicit Folder(const std::string& name = "", const std::string& text = "") {
    fs::copy_file(kFixture + "tokenizer.model", folder / "tokenizer.model");
    if (!name.empty()) put(folder / name, text);
  }
  std::unique_ptr<const Tokenizer> open() const { return open_tokenizer(folder / "tokenizer.model"); }
  std::string error() const {
    try {
      (void)open();
      return "nothing was refused";
    } catch (const InputError& error) {
      return error.what();
    }
  }
  TemporaryFolder folder;
};

/// The size of the fixture's SentencePiece model.
Index model_size() { return Folder().open()->vocabulary(); }

TEST(AddedTokens, GivesTheIdsOfTransformers) {
  const json expected = parse_json(text_of(kFixture + "ids.json"));
  for (const std::string mode : {"legacy", "first"}) {
    const Folder folder("tokenizer_config.json", text_of(kFixture + mode + ".json"));
    const auto tokenizer = folder.open();
    EXPECT_EQ(tokenizer->vocabulary(), model_size() + 10);
    std::size_t compared = 0;
    const auto compare = [&](const json& texts, const json& ids) {
      ASSERT_EQ(texts.size(), ids.size());
      for (std::size_t i = 0; i < texts.size(); ++i, ++compared) {
        const auto text = texts[i].get<std::string>();
        // Unlike there, no text can write the start and the end of a text.
        if (text.find("<s>") != std::string::npos) {
          EXPECT_NE(tokenizer->encode(text), ids[i].get<std::vector<std::int32_t>>()) << text;
        } else {
          EXPECT_EQ(tokenizer->encode(text), ids[i].get<std::vector<std::int32_t>>()) << mode << ": '" << text << "'";
        }
      }
    };
    compare(expected["texts"], expected[mode]);
    compare(expected["starts"], expected[mode + "_starts"]);
    EXPECT_GT(compared, 25U);
  }
}

TEST(AddedTokens, TokensDecodeToTheirText) {
  const json expected = parse_json(text_of(kFixture + "ids.json"));
  for (const std::string mode : {"legacy", "first"}) {
    json config = parse_json(text_of(kFixture + mode + ".json"));
    for (auto& entry : config["added_tokens_decoder"]) entry["lstrip"] = entry["rstrip"] = false;
    const Folder folder("tokenizer_config.json", config.dump());
    const auto tokenizer = folder.open();
    EXPECT_TRUE(tokenizer->lossless());
    for (const char* list : {"texts", "starts"}) {
      for (const auto& text : expected[list]) EXPECT_EQ(tokenizer->decode(tokenizer->encode(text.get<std::string>())), text) << mode;
    }
    const auto hole = static_cast<std::int32_t>(model_size()) + 4;
    EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{hole}), "") << "an id without a token";
    EXPECT_EQ(tokenizer->table().pieces[static_cast<std::size_t>(hole)].kind, PieceTable::Kind::unreachable);
    EXPECT_THROW((void)tokenizer->bytes(-1, static_cast<std::int32_t>(tokenizer->vocabulary())), Error);
  }
  EXPECT_FALSE(Folder("tokenizer_config.json", text_of(kFixture + "legacy.json")).open()->lossless()) << "some drop spaces";
}

TEST(AddedTokens, EachFileAddsThem) {
  const auto id = static_cast<std::int32_t>(model_size());
  const std::string number = std::to_string(id);
  for (const auto& [name, text] : std::vector<std::pair<std::string, std::string>>{
           {"added_tokens.json", R"({"<new>": )" + number + "}"},
           {"tokenizer_config.json", R"({"added_tokens_decoder": {")" + number + R"(": {"content": "<new>"}}})"},
           {"tokenizer.json", R"({"added_tokens": [{"id": )" + number + R"(, "content": "<new>", "special": true}]})"}}) {
    const auto tokenizer = Folder(name, text).open();
    EXPECT_EQ(tokenizer->vocabulary(), id + 1) << name;
    const std::vector<std::int32_t> ids = tokenizer->encode("the<new>");
    EXPECT_EQ(ids.back(), id) << name;
  }
  const Folder both("added_tokens.json", R"({"<new>": )" + number + "}");
  put(both.folder / "tokenizer.json", R"({"added_tokens": [{"id": )" + number + R"(, "content": "<other>"}]})");
  EXPECT_NE(both.error().find("added token " + number + " is '<other>'"), std::string::npos) << both.error();
}

TEST(AddedTokens, WithoutAnyTheModelIsAlone) {
  const std::string listed =
      R"({"added_tokens": [{"id": 0, "content": "<unk>", "special": true}, {"id": 1, "content": "<s>", "special": true},
    {"id": 2, "content": "</s>", "special": true}, {"id": 3, "content": "<control>", "special": true}]})";
  const Folder folder("tokenizer.json", listed);
  const std::vector<std::int32_t> ids = folder.open()->encode("<s><control>the");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 3), 1) << "a control piece that the file lists can be written";
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 0) << "a start of text cannot";
  put(folder.folder / "tokenizer_config.json", R"({"split_special_tokens": true, "legacy": false})");
  EXPECT_EQ(folder.open()->encode("<s><control>the"), Folder().open()->encode("<s><control>the"));
}

TEST(AddedTokens, SpecialTokensMayStayText) {
  const auto id = static_cast<std::int32_t>(model_size());
  const std::string entries = R"("added_tokens_decoder": {")" + std::to_string(id) + R"(": {"content": "<a>", "special": true}, ")" +
                              std::to_string(id + 1) + R"(": {"content": "<b>"}})";
  const auto open = Folder("tokenizer_config.json", "{" + entries + "}").open();
  EXPECT_EQ(open->encode("<a><b>"), (std::vector<std::int32_t>{id, id + 1}));
  const auto split = Folder("tokenizer_config.json", "{" + entries + R"(, "split_special_tokens": true})").open();
  EXPECT_EQ(split->vocabulary(), id + 2);
  const std::vector<std::int32_t> ids = split->encode("<a><b>");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), id), 0);
  EXPECT_EQ(ids.back(), id + 1);
  EXPECT_EQ(split->decode(ids), "<a><b>");
}

TEST(AddedTokens, RejectsWhatCannotBeHonoured) {
  const std::string number = std::to_string(model_size());
  const auto entry = [&](const std::string& id, const std::string& rest) {
    return Folder("tokenizer_config.json", R"({"added_tokens_decoder": {")" + id + R"(": {)" + rest + "}}}").error();
  };
  const auto expect = [](const std::string& error, const std::string& words) { EXPECT_NE(error.find(words), std::string::npos) << error; };
  expect(entry(number, R"("content": "<new>", "single_word": true)"), "'<new>'");
  expect(entry(number, R"("content": "<new>", "single_word": true)"), "single_word");
  expect(entry(number, R"("content": "")"), "has no content");
  expect(entry(number, R"("special": true)"), "has no content");
  expect(entry("x", R"("content": "a")"), "the entry 'x'");
  expect(entry("99999999999", R"("content": "a")"), "the entry '99999999999'");
  expect(entry("2147483648", R"("content": "a")"), "not from 0 to 2147483647");
  expect(entry("2000000000", R"("content": "a")"), "has the id 2000000000, but");
  expect(entry("290", R"("content": "a")"), "added token 290 is 'a'");
  expect(Folder("added_tokens.json", R"({"<new>": "x"})").error(), "has no id for '<new>'");
  expect(Folder("added_tokens.json", "{").error(), "added_tokens.json is not a JSON object");
  expect(Folder("tokenizer.json", R"({"added_tokens": [{"content": "a"}]})").error(), "an entry without an id");
  expect(Folder("tokenizer.json", R"({"added_tokens": [{"id": -1, "content": "a"}]})").error(), "has the id -1");
  expect(Folder("added_tokens.json", R"({"<a>": )" + number + "}").error(), "nothing was refused");
  Folder twice("added_tokens.json", R"({"<a>": )" + number + "}");
  put(twice.folder / "tokenizer.json", R"({"added_tokens": [{"id": 9999, "content": "<a>"}]})");
  expect(twice.error(), "has two ids");
  // A text of the file is part of the sentence, whatever it holds.
  expect(entry("290", R"("content": "a\nb")"), "added token 290 is 'a\\x0ab'");
  EXPECT_LT(entry("290", "\"content\": \"" + std::string(5000, 'x') + "\"").size(), 600U);
  expect(Folder("added_tokens.json", R"({"<new>": 18446744073709551615})").error(), "has no id for '<new>'");
  expect(Folder("tokenizer.json", std::string(100000, '[')).error(), "nested more than 1000 deep");
}

/// Byte-pair encoding gives the id of an unused piece to a text that is this one character.
TEST(AddedTokens, AnUnusedCharacterKeepsItsText) {
  sentencepiece::Model changed;
  const Folder folder;
  ASSERT_TRUE(changed.ParseFromString(text_of(kFixture + "tokenizer.model")));
  int id = 3;
  while (changed.pieces(id).type() != sentencepiece::Model::Piece::NORMAL || changed.pieces(id).piece().size() != 1) ++id;
  changed.mutable_pieces(id)->set_type(sentencepiece::Model::Piece::UNUSED);
  put(folder.folder / "tokenizer.model", changed.SerializeAsString());
  put(folder.folder / "added_tokens.json", "{\"<new>\": " + std::to_string(id) + "}");
  EXPECT_NE(folder.error().find("but '" + changed.pieces(id).piece() + "' in the SentencePiece model"), std::string::npos)
      << folder.error();
}

/// What a checkpoint holds: the model's file, and the files that describe its tokenizer to others.
TEST(AddedTokens, TheFilesOfACheckpointGiveTheSameIds) {
  const json expected = parse_json(text_of(kFixture + "ids.json"));
  for (const std::string mode : {"legacy", "first", "never"}) {
    Folder folder("tokenizer_config.json", text_of(kFixture + (mode == "never" ? "first" : mode) + ".json"));
    if (mode == "never") put(folder.folder / "tokenizer.json", R"({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "never"}})");
    const auto tokenizer = folder.open();
    const HuggingFaceTokenizer files = hugging_face_tokenizer(*tokenizer);
    Folder checkpoint("tokenizer_config.json", files.config_json);
    put(checkpoint.folder / "tokenizer.json", files.tokenizer_json);
    const auto again = checkpoint.open();
    EXPECT_EQ(again->vocabulary(), tokenizer->vocabulary());
    for (const char* list : {"texts", "starts"}) {
      for (const auto& text : expected[list])
        EXPECT_EQ(again->encode(text.get<std::string>()), tokenizer->encode(text.get<std::string>())) << mode << ": '" << text << "'";
    }
    EXPECT_EQ(again->encode("the").size() == 1, mode != "never") << mode;
    const json file = parse_json(files.tokenizer_json);
    std::size_t added = 0;
    for (const json& token : file["added_tokens"]) added += token["content"] == "<left>" && token["lstrip"] == true ? 1 : 0;
    EXPECT_EQ(added, 1U);
  }
}

}  // namespace
}  // namespace yard
