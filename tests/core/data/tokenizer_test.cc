#include "core/data/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>

#include "core/data/sentencepiece.pb.h"
#include "core/data/utf8.h"
#include "tests/support/support.h"

namespace yard {
namespace {

using test::TemporaryFolder;
namespace fs = std::filesystem;

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

/// 10,000 lines that every machine with a compiler has: licences and the headers of the C++ library, some with tabs, long rulers and UTF-8.
const std::vector<std::string>& real_lines() {
  static const std::vector<std::string> lines = [] {
    std::vector<std::string> paths;
    for (const char* folder : {"/usr/share/common-licenses", "/usr/include/c++"}) {
      std::error_code ignored;
      for (const auto& entry : fs::recursive_directory_iterator(folder, ignored)) {
        if (fs::is_regular_file(entry, ignored) && !entry.is_symlink(ignored)) paths.push_back(entry.path());
      }
    }
    std::sort(paths.begin(), paths.end());
    std::stable_partition(paths.begin(), paths.end(), [](const std::string& path) { return path.starts_with("/usr/share"); });
    std::vector<std::string> result = {"",
                                       " ",
                                       "   two  spaces   ",
                                       "\ttab",
                                       "na\xc3\xafve caf\xc3\xa9 \xe2\x80\x9cquoted\xe2\x80\x9d \xf0\x9f\x99\x82\xf0\x9f\x99\x82",
                                       std::string(3000, '='),
                                       std::string(500, ' ') + "x",
                                       "<unk></s><0x41>",
                                       "\xef\xbf\xbd",
                                       "a\rb"};
    for (const std::string& path : paths) {
      std::ifstream file(path, std::ios::binary);
      for (std::string line; result.size() < 10000 && std::getline(file, line);) {
        if (utf8_prefix(line) == line.size() && line.find('\0') == std::string::npos) result.push_back(line);
      }
    }
    return result;
  }();
  return lines;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

/// Models trained once for all tests, by the options of semantics.md section 5 unless said otherwise.
const std::string& model(const std::string& name) {
  static const TemporaryFolder folder;
  static std::map<std::string, std::string> models;
  if (models.contains(name)) return models[name];
  const std::string text = folder / "text";
  if (!fs::exists(text)) put(text, joined({real_lines().begin(), real_lines().begin() + 4000}));
  const std::string little = folder / "little";  // for the models that are only refused
  if (!fs::exists(little)) put(little, joined({real_lines().begin(), real_lines().begin() + 1000}));
  const std::string lossless =
      "--normalization_rule_name=identity --remove_extra_whitespaces=false --add_dummy_prefix=false --allow_whitespace_only_pieces=true "
      "--byte_fallback=true --user_defined_symbols='\n' --bos_id=-1 --eos_id=1 ";
  const std::map<std::string, std::string> options = {
      {"bpe", lossless + "--model_type=bpe --vocab_size=900"},
      {"unigram", lossless + "--model_type=unigram --vocab_size=800"},
      {"bpe across words", lossless + "--model_type=bpe --vocab_size=700 --split_by_whitespace=false"},
      {"bpe with symbols", lossless + "--model_type=bpe --vocab_size=700 --user_defined_symbols='std::,template,==,    '"},
      {"unigram with symbols", lossless + "--model_type=unigram --vocab_size=700 --user_defined_symbols='std::,late<,tem,= ,;,  '"},
      {"bpe as llama",
       "--normalization_rule_name=identity --remove_extra_whitespaces=false --byte_fallback=true --model_type=bpe --vocab_size=700"},
      {"bpe that loses", "--normalization_rule_name=identity --model_type=bpe --vocab_size=500 --character_coverage=0.98"},
      {"unigram that loses", "--normalization_rule_name=identity --model_type=unigram --vocab_size=500 --character_coverage=0.98"},
      {"normalising", "--model_type=bpe --vocab_size=500"},
      {"words", "--model_type=word --vocab_size=500 --normalization_rule_name=identity"},
      {"suffix", lossless + "--model_type=bpe --vocab_size=500 --treat_whitespace_as_suffix=true"},
      {"no end", "--normalization_rule_name=identity --model_type=bpe --vocab_size=500 --eos_id=-1 --bos_id=-1"},
  };
  const std::string prefix = folder / std::to_string(models.size());
  const bool refused = name == "normalising" || name == "words" || name == "suffix" || name == "no end";
  const auto result = test::run_command("spm_train --input=" + (refused ? little : text) + " --model_prefix=" + prefix +
                                        " --num_threads=2 --max_sentence_length=8000 " + options.at(name));
  check(result.code == 0, "spm_train failed: ", result.err);
  return models[name] = prefix + ".model";
}

const std::vector<std::string> kLossless = {"bpe",         "unigram", "bpe across words", "bpe with symbols", "unigram with symbols",
                                            "bpe as llama"};

TEST(Tokenizer, BytesAreTheirOwnIds) {
  const auto tokenizer = open_tokenizer("bytes");
  EXPECT_EQ(tokenizer->vocabulary(), 257);
  EXPECT_EQ(tokenizer->end_of_text(), 256);
  EXPECT_EQ(tokenizer->encode(std::string_view("a\0\xff", 3)), (std::vector<std::int32_t>{97, 0, 255}));
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{97, 256, 0, 255}), std::string("a\0\xff", 3));
  EXPECT_THROW((void)tokenizer->bytes(0, 257), Error);
}

/// Every line, encoded by us and by the program spm_encode.
class AgainstSentencePiece : public testing::TestWithParam<std::string> {};

TEST_P(AgainstSentencePiece, GivesTheSameIds) {
  const auto tokenizer = open_tokenizer(model(GetParam()));
  const std::vector<std::string>& lines = real_lines();
  ASSERT_EQ(lines.size(), 10000U);
  const TemporaryFolder folder;
  put(folder / "in", joined(lines));
  const auto result = test::run_command("spm_encode --model=" + model(GetParam()) + " --output_format=id --input=" + (folder / "in") +
                                        " --output=" + (folder / "out"));
  ASSERT_EQ(result.code, 0) << result.err;
  std::ifstream out(folder / "out");
  int different = 0;
  std::size_t tokens = 0;
  for (const std::string& line : lines) {
    std::string text;
    ASSERT_TRUE(std::getline(out, text));
    std::istringstream numbers(text);
    std::vector<std::int32_t> expected;
    for (std::int32_t id = 0; numbers >> id;) expected.push_back(id);
    const std::vector<std::int32_t> actual = tokenizer->encode(line);
    tokens += actual.size();
    if (actual != expected && ++different <= 3)
      ADD_FAILURE() << "'" << line << "' gave " << testing::PrintToString(actual) << ", expected " << text;
  }
  EXPECT_EQ(different, 0);
  EXPECT_GT(tokens, 50000U);
}

TEST_P(AgainstSentencePiece, DecodesAsItDoes) {
  const auto tokenizer = open_tokenizer(model(GetParam()));
  const TemporaryFolder folder;
  std::string ids;
  std::vector<std::string> mine;
  for (std::size_t i = 0; i < 500; ++i) {
    const std::vector<std::int32_t> line = tokenizer->encode(real_lines()[i * 20]);
    for (const std::int32_t id : line) ids += std::to_string(id) + " ";
    ids += "\n";
    mine.push_back(tokenizer->decode(line));
  }
  put(folder / "in", ids);
  const auto result = test::run_command("spm_decode --model=" + model(GetParam()) + " --input_format=id --input=" + (folder / "in") +
                                        " --output=" + (folder / "out"));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(joined(mine), contents(folder / "out"));
}

INSTANTIATE_TEST_SUITE_P(Models, AgainstSentencePiece,
                         testing::Values("bpe", "unigram", "bpe across words", "bpe with symbols", "unigram with symbols", "bpe as llama",
                                         "bpe that loses", "unigram that loses"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), ' ', '_');
                           return name;
                         });

TEST(Tokenizer, IsLosslessOnRandomBytes) {
  const std::vector<std::string> fragments = {" ",
                                              "  ",
                                              "\n",
                                              "\n\n",
                                              "\xe2\x96\x81",
                                              "\xe2\x96",
                                              "\xe2",
                                              std::string(1, '\0'),
                                              "\xff",
                                              "\xc0\x80",
                                              "\xed\xa0\x80",
                                              "\xf4\x90\x80\x80",
                                              "\xf0\x9f\x99\x82",
                                              "template",
                                              "std::",
                                              "the",
                                              "=",
                                              "==",
                                              "</s>",
                                              "<0x41>",
                                              "\xef\xbf\xbd",
                                              "\x92",
                                              "e\xcc\x81"};
  for (const std::string& name : kLossless) {
    const auto tokenizer = open_tokenizer(model(name));
    EXPECT_TRUE(tokenizer->lossless());
    EXPECT_TRUE(tokenizer->encode("").empty());
    for (std::uint64_t seed = 0; seed < 400; ++seed) {
      const Random random(key_of(seed, 77));
      std::string text;
      const std::uint64_t pieces = random.bits(0) % 60;
      for (std::uint64_t i = 1; i <= pieces; ++i) {
        const std::uint64_t bits = random.bits(i);
        if (seed % 2 == 0) {
          text += static_cast<char>(bits);
        } else {
          text += fragments[bits % fragments.size()];
        }
      }
      const std::vector<std::int32_t> ids = tokenizer->encode(text);
      ASSERT_EQ(tokenizer->decode(ids), text) << name << ", seed " << seed;
      ASSERT_EQ(std::count(ids.begin(), ids.end(), tokenizer->end_of_text()), 0) << "text cannot write an end of text";
    }
  }
}

TEST(Tokenizer, IsLosslessOnRealText) {
  const std::string text = joined(real_lines()) + "a byte that is not UTF-8: \x92, a zero: " + std::string(1, '\0');
  for (const std::string& name : kLossless) {
    const auto tokenizer = open_tokenizer(model(name));
    const std::vector<std::int32_t> ids = tokenizer->encode(text);
    EXPECT_EQ(tokenizer->decode(ids), text) << name;
    EXPECT_LT(ids.size(), text.size() * 2 / 3) << name;
  }
}

TEST(Tokenizer, MayBeFedLineByLine) {
  for (const char* name : {"bpe", "unigram"}) {
    const auto tokenizer = open_tokenizer(model(name));
    ASSERT_TRUE(tokenizer->splits_at_newlines());
    std::vector<std::int32_t> parts;
    for (const std::string& line : real_lines()) tokenizer->encode(line + "\n", parts);
    EXPECT_EQ(parts, tokenizer->encode(joined(real_lines()))) << name;
  }
  EXPECT_FALSE(open_tokenizer(model("bpe as llama"))->splits_at_newlines()) << "each line would get a space of its own";
}

TEST(Tokenizer, TargetBytesAddUpToTheText) {
  for (const std::string& name : kLossless) {
    const auto tokenizer = open_tokenizer(model(name));
    const std::string first = "The quick\nbrown fox";
    const std::string second = " na\xc3\xafve \xff";
    std::vector<int> stream = {tokenizer->end_of_text()};
    for (const std::string& text : {first, second}) {
      for (const std::int32_t id : tokenizer->encode(text)) stream.push_back(id);
      stream.push_back(tokenizer->end_of_text());
    }
    EXPECT_EQ(tokenizer->decode(stream), first + second) << name;
    std::vector<int> ids(stream.begin(), stream.end() - 1);
    std::vector<int> targets(stream.begin() + 1, stream.end());
    ids.push_back(-1);
    targets.push_back(-1);
    const auto count = static_cast<Index>(ids.size());
    EXPECT_EQ(target_bytes(*tokenizer, test::tensor_of({count}, ids), test::tensor_of({count}, targets)),
              static_cast<Index>(first.size() + second.size()))
        << name;
  }
}

TEST(Tokenizer, SaysWhenItLoses) {
  EXPECT_FALSE(open_tokenizer(model("bpe that loses"))->lossless());
  EXPECT_FALSE(open_tokenizer(model("unigram that loses"))->lossless());
}

/// Expects that opening the file is refused with a sentence that holds the words and the file's name.
void expect_refused(const std::string& path, const std::string& words) {
  try {
    (void)open_tokenizer(path);
    ADD_FAILURE() << "accepted, although: " << words;
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
  }
}

TEST(Tokenizer, RefusesModelsItWouldGetWrong) {
  expect_refused(model("normalising"), "nmt_nfkc");
  expect_refused(model("words"), "type WORD");
  expect_refused(model("suffix"), "suffixes");
  expect_refused(model("no end"), "eos_id");
  const TemporaryFolder folder;
  expect_refused(folder / "absent", "No such file");
  EXPECT_THROW((void)open_tokenizer(""), InputError);
  put(folder / "x", "");
  expect_refused(folder / "x", "not a SentencePiece model");
  put(folder / "x", "{\"model\": {\"type\": \"BPE\"}}");
  expect_refused(folder / "x", "not a SentencePiece model");
  const std::string whole = contents(model("bpe"));
  put(folder / "x", whole.substr(0, whole.size() / 2));
  expect_refused(folder / "x", "not a SentencePiece model");

  sentencepiece::Model good;
  ASSERT_TRUE(good.ParseFromString(whole));
  const auto refuse = [&](const std::string& words, const auto& damage) {
    sentencepiece::Model bad = good;
    damage(bad);
    put(folder / "x", bad.SerializeAsString());
    expect_refused(folder / "x", words);
  };
  refuse("is empty", [](auto& bad) { bad.mutable_pieces(400)->set_piece(""); });
  refuse("twice", [](auto& bad) { bad.mutable_pieces(400)->set_piece(bad.pieces(401).piece()); });
  refuse("no unknown piece", [](auto& bad) { bad.mutable_pieces(0)->set_type(sentencepiece::Model::Piece::CONTROL); });
  refuse("no byte piece", [](auto& bad) { bad.mutable_pieces(5)->set_piece("<0xZZ>"); });
  refuse("lacks some", [](auto& bad) { bad.mutable_pieces(5)->set_type(sentencepiece::Model::Piece::CONTROL); });
  refuse("piece 400 has the score nan", [](auto& bad) { bad.mutable_pieces(400)->set_score(std::nanf("")); });
  refuse("piece 400 has the score -inf", [](auto& bad) { bad.mutable_pieces(400)->set_score(-INFINITY); });
  refuse("the piece 'a\\x0ab' twice", [](auto& bad) {
    bad.mutable_pieces(400)->set_piece("a\nb");
    bad.mutable_pieces(401)->set_piece("a\nb");
  });
  refuse("denormalisation", [](auto& bad) { bad.mutable_denormalizer_spec()->set_precompiled_charsmap("x"); });
}

TEST(Tokenizer, SurvivesAnyDamage) {
  const TemporaryFolder folder;
  const std::string whole = contents(model("unigram"));
  const std::string other = contents(model("bpe"));
  int refused = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const Random random(key_of(seed, 5));
    std::string damaged = seed % 2 == 0 ? whole : other;
    for (std::uint64_t i = 0; i < 1 + seed % 7; ++i)
      damaged[random.bits(2 * i) % damaged.size()] = static_cast<char>(random.bits(2 * i + 1));
    put(folder / "x", damaged);
    try {
      const auto tokenizer = open_tokenizer(folder / "x");
      const std::string text = real_lines()[4] + real_lines()[seed * 40] + "\xff";
      const std::vector<std::int32_t> ids = tokenizer->encode(text);
      const bool whole_text = tokenizer->decode(ids) == text;
      EXPECT_TRUE(whole_text || !tokenizer->lossless() || !tokenizer->splits_at_newlines()) << "seed " << seed;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(folder / "x"), std::string::npos) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 20);
  EXPECT_LT(refused, 180);
}

TEST(Tokenizer, TakesUnusedPiecesApart) {
  sentencepiece::Model changed;
  ASSERT_TRUE(changed.ParseFromString(contents(model("bpe"))));
  for (int id = 300; id < 330; ++id) changed.mutable_pieces(id)->set_type(sentencepiece::Model::Piece::UNUSED);
  const TemporaryFolder folder;
  put(folder / "unused.model", changed.SerializeAsString());
  const auto tokenizer = open_tokenizer(folder / "unused.model");
  const std::vector<std::int32_t> ids = tokenizer->encode(joined(real_lines()));
  EXPECT_TRUE(std::none_of(ids.begin(), ids.end(), [](std::int32_t id) { return id >= 300 && id < 330; }));
  EXPECT_EQ(tokenizer->decode(ids), joined(real_lines()));
}

/// The space before a text is a byte piece where the model has no other piece for it.
TEST(Tokenizer, TheSpaceBeforeATextMayBeAByte) {
  sentencepiece::Model changed;
  ASSERT_TRUE(changed.ParseFromString(contents(model("bpe as llama"))));
  for (auto& piece : *changed.mutable_pieces()) {
    if (piece.piece().starts_with("\xe2\x96\x81")) piece.set_type(sentencepiece::Model::Piece::CONTROL);
  }
  const TemporaryFolder folder;
  put(folder / "x.model", changed.SerializeAsString());
  const auto tokenizer = open_tokenizer(folder / "x.model");
  ASSERT_TRUE(tokenizer->lossless());
  for (const std::string text : {" ", "two words", "  two", ""}) EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
}

/// One unknown stands for a run of characters, which may reach across a newline.
TEST(Tokenizer, WithoutBytePiecesATextIsOneRun) {
  sentencepiece::Model changed;
  ASSERT_TRUE(changed.ParseFromString(contents(model("unigram"))));
  changed.mutable_trainer_spec()->set_byte_fallback(false);
  changed.mutable_normalizer_spec()->set_add_dummy_prefix(false);
  changed.mutable_normalizer_spec()->set_remove_extra_whitespaces(false);
  const TemporaryFolder folder;
  put(folder / "x.model", changed.SerializeAsString());
  EXPECT_FALSE(open_tokenizer(folder / "x.model")->splits_at_newlines());
}

TEST(Tokenizer, DecodingSkipsIdsThatItDoesNotKnow) {
  const auto tokenizer = open_tokenizer("bytes");
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{104, 350, 105, 257, -1, 2147483647}), "hi");
  const auto pieces = open_tokenizer(model("bpe as llama"));
  std::vector<std::int32_t> ids = pieces->encode("two words");
  ids.insert(ids.begin(), static_cast<std::int32_t>(pieces->vocabulary()));
  EXPECT_EQ(pieces->decode(ids), "two words") << "nor is such an id the start of a text";
}

TEST(Utf8, TheLastCharacterMayBeUnfinished) {
  const std::string smile = "\xf0\x9f\x99\x82";
  for (std::size_t bytes = 0; bytes <= 4; ++bytes) EXPECT_EQ(utf8_unfinished("a" + smile.substr(0, bytes)), bytes % 4) << bytes;
  EXPECT_EQ(utf8_unfinished("\xc3"), 1U);
  EXPECT_EQ(utf8_unfinished("\xe2\x80"), 2U);
  for (const char* whole : {"", "a", "\xc3\xa9", "\x80", "\x80\x80\x80\x80", "a\x92", "\xff", "\xc0", "\xc3\xa9\x80"})
    EXPECT_EQ(utf8_unfinished(whole), 0U) << whole;
}

}  // namespace
}  // namespace yard
