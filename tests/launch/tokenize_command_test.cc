#include "launch/tokenize_command.h"
#include "core/io/json.h"

#include <filesystem>
#include <fstream>
#include <vector>

#include "core/data/ngram.h"
#include "core/data/token_file.h"
#include "core/data/tokenizer.h"
#include "launch/baselines_command.h"
#include "launch/tokenizer_command.h"
#include "tests/support/support.h"

namespace yard {
namespace {

using test::TemporaryFolder;
namespace fs = std::filesystem;

void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

using Command = int (*)(int, const char* const*);

/// What a command prints on stdout; it must return 0.
std::string output_of(Command command, const std::vector<const char*>& arguments) {
  testing::internal::CaptureStdout();
  int code = -1;
  try {
    code = command(static_cast<int>(arguments.size()), arguments.data());
  } catch (...) {
    (void)testing::internal::GetCapturedStdout();
    throw;
  }
  EXPECT_EQ(code, 0);
  return testing::internal::GetCapturedStdout();
}

/// Expects an InputError with these words.
void expect_refused(Command command, const std::vector<const char*>& arguments, const std::string& words) {
  try {
    (void)output_of(command, arguments);
    ADD_FAILURE() << "nothing was refused; expected: " << words;
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

/// The documents of a token file as text, each ended by an end of text.
std::vector<std::string> documents_of(const std::string& prefix, const Tokenizer& tokenizer) {
  const TokenStream stream(prefix, TokenFormat::megatron, tokenizer.vocabulary());
  std::vector<std::string> documents;
  Index first = 0;
  for (const Index end : stream.document_ends()) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(end - first));
    stream.copy(first, ids);
    EXPECT_EQ(ids.back(), tokenizer.end_of_text());
    documents.push_back(tokenizer.decode(ids));
    first = end;
  }
  EXPECT_EQ(first, stream.length());
  return documents;
}

TEST(Tokenize, CutsDocuments) {
  const TemporaryFolder folder;
  const std::string text = folder / "text";
  const std::string second = folder / "second";
  const std::string prefix = folder / "out";
  const auto bytes = byte_tokenizer();
  const auto documents = [&](const char* kind) {
    const std::string line = output_of(tokenize_command, {"tokenize", "--text", text.c_str(), second.c_str(), "--tokenizer", "bytes",
                                                          "--out", prefix.c_str(), "--document", kind});
    const std::vector<std::string> found = documents_of(prefix, *bytes);
    EXPECT_NE(line.find(std::to_string(found.size()) + " document"), std::string::npos) << line;
    return found;
  };
  const std::string first = "one\ntwo\r\n\n\n\nthree\n\r\nlast \x92";
  put(text, first);
  put(second, "\n\nmore\n");
  EXPECT_EQ(documents("file"), (std::vector<std::string>{first, "\n\nmore\n"}));
  EXPECT_EQ(documents("line"), (std::vector<std::string>{"one", "two", "three", "last \x92", "more"}));
  EXPECT_EQ(documents("blank-line"), (std::vector<std::string>{"one\ntwo", "three", "last \x92", "more"}));
  put(text, "{\"t\": \"a\\nb\\u00e9\", \"u\": 1}\n\n{\"t\": \"\"}\n");
  put(second, "{\"u\": 2, \"t\": \"c\"}");
  EXPECT_EQ(documents("jsonl:t"), (std::vector<std::string>{"a\nb\xc3\xa9", "c"}));
}

/// Files from Windows: CR LF, and a byte-order mark.
TEST(Tokenize, ReadsTextAsPeopleHaveIt) {
  const TemporaryFolder folder;
  const std::string text = folder / "text";
  const std::string prefix = folder / "out";
  const auto bytes = byte_tokenizer();
  const auto documents = [&](const char* kind, const std::string& contents) {
    put(text, contents);
    (void)output_of(tokenize_command,
                    {"tokenize", "--text", text.c_str(), "--tokenizer", "bytes", "--out", prefix.c_str(), "--document", kind});
    return documents_of(prefix, *bytes);
  };
  const std::string mark = "\xef\xbb\xbf";
  using Texts = std::vector<std::string>;
  EXPECT_EQ(documents("line", mark + "a\r\n\r\nb\rc\r\nd"), (Texts{"a", "b\rc", "d"})) << "a CR alone is text";
  EXPECT_EQ(documents("line", "a\r\r\n" + mark + "b"), (Texts{"a\r", mark + "b"})) << "only the first mark is none of the text";
  EXPECT_EQ(documents("blank-line", mark + "a\r\nb\r\n\r\n\r\nc\rd\r\ne\r\n"), (Texts{"a\nb", "c\rd\ne"}));
  EXPECT_EQ(documents("jsonl:t", mark + "{\"t\": \"a\\r\\n\"}\r\n\r\n \t\r\n{\"t\": \"b\"}\r\n"), (Texts{"a\r\n", "b"}));
  EXPECT_EQ(documents("jsonl:t", "{\"t\": \"a\\ud83d\\ude00\"}"), (Texts{"a\xf0\x9f\x98\x80"}));
  EXPECT_EQ(documents("file", mark + "a\r\nb\r\n"), (Texts{mark + "a\r\nb\r\n"})) << "a file is taken byte for byte";
  for (const std::string& wide : {std::string("\xff\xfe") + std::string("a\0", 2), std::string("\xfe\xff") + std::string("\0a", 2)}) {
    for (const char* kind : {"line", "blank-line", "jsonl:t"}) {
      put(text, wide);
      expect_refused(tokenize_command,
                     {"tokenize", "--text", text.c_str(), "--tokenizer", "bytes", "--out", prefix.c_str(), "--document", kind},
                     text + " begins with the byte-order mark of UTF-16");
    }
    EXPECT_EQ(documents("file", wide), Texts{wide});
  }
}

TEST(Tokenize, BadLinesAreNamedOrSkipped) {
  const TemporaryFolder folder;
  const std::string text = folder / "text";
  const std::string prefix = folder / "out";
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"{\"t\": \"x\", \"score\": NaN}", "is no JSON object: at column 21: "},
      {"{\"t\": \"x\", \"score\": -Infinity}", "is no JSON object: at column 22: "},
      {"{\"t\": \"\\ud800\"}", "surrogate"},
      {"{\"t\": \"caf\xe9\"}", "byte 0xE9 at column 11 is not UTF-8"},
      {"{\"t\": \"x\"", "is no JSON object: at column"},
      {"{\"t\": \"x\"} {}", "is no JSON object: at column"},
      {"{'t': 'x'}", "is no JSON object: at column 2"},
      {"[\"t\"]", "it is of the type array"},
      {"\"t\"", "it is of the type string"},
      {"{\"u\": \"x\"}", "has no string 't'"},
      {"{\"t\": null}", "has no string 't': it is of the type null"},
      {"{\"t\": [\"x\"]}", "has no string 't': it is of the type array"},
  };
  std::string all = "{\"t\": \"a\"}\n";
  for (const auto& [line, words] : bad) {
    put(text, "{\"t\": \"a\"}\n\n" + line + "\n{\"t\": \"b\"}\n");
    const std::vector<const char*> arguments = {"tokenize", "--text",       text.c_str(), "--tokenizer", "bytes",
                                                "--out",    prefix.c_str(), "--document", "jsonl:t"};
    expect_refused(tokenize_command, arguments, "line 3 of " + text);
    expect_refused(tokenize_command, arguments, words);
    all += line + "\n";
  }
  put(text, all + "{\"t\": \"b\"}");
  testing::internal::CaptureStderr();
  (void)output_of(tokenize_command, {"tokenize", "--text", text.c_str(), "--tokenizer", "bytes", "--out", prefix.c_str(), "--document",
                                     "jsonl:t", "--skip-bad-lines"});
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("skipped 12 bad lines of 14; the first: line 2 of " + text), std::string::npos) << said;
  EXPECT_EQ(documents_of(prefix, *byte_tokenizer()), (std::vector<std::string>{"a", "b"}));
  expect_refused(tokenize_command,
                 {"tokenize", "--text", text.c_str(), "--tokenizer", "bytes", "--out", prefix.c_str(), "--skip-bad-lines"},
                 "--skip-bad-lines is for --document jsonl:FIELD");
  put(text, "{}\n");
  expect_refused(
      tokenize_command,
      {"tokenize", "--text", text.c_str(), "--tokenizer", "bytes", "--out", prefix.c_str(), "--document", "jsonl:t", "--skip-bad-lines"},
      "line 1 of " + text + " has no string 't'");
}

TEST(Tokenize, RefusesBadInput) {
  const TemporaryFolder folder;
  const std::string text = folder / "text";
  const std::string prefix = folder / "out";
  const auto refused = [&](const std::string& contents, const char* kind, const std::string& words) {
    put(text, contents);
    expect_refused(tokenize_command,
                   {"tokenize", "--text", text.c_str(), "--tokenizer", "bytes", "--out", prefix.c_str(), "--document", kind}, words);
    EXPECT_FALSE(fs::exists(prefix + ".bin"));
    EXPECT_FALSE(fs::exists(prefix + ".bin.tmp"));
  };
  refused("", "file", "the text is empty");
  refused("\n\n", "line", "the text is empty");
  refused("x", "word", "--document is 'word'");
  refused("x", "jsonl:", "--document is 'jsonl:'");
  refused("{\"t\": \"a\"}\nnonsense\n", "jsonl:t", "line 2 of " + text + " is no JSON object");
  refused("{\"t\": 1}\n", "jsonl:t", "has no string 't'");
  refused("{\"t\": \"a\"}\n{\"t\": \"\x92\"}\n", "jsonl:t", "line 2");
  expect_refused(tokenize_command, {"tokenize", "--text", "/no/such/file", "--tokenizer", "bytes", "--out", prefix.c_str()},
                 "/no/such/file");
  expect_refused(tokenize_command, {"tokenize", "--text", text.c_str(), "--tokenizer", text.c_str(), "--out", prefix.c_str()},
                 "not a SentencePiece model");
  expect_refused(tokenize_command, {"tokenize", "--tokenizer", "bytes", "--out", prefix.c_str()}, "'--text' is required");
  expect_refused(tokenize_command, {"tokenize", "--text", text.c_str(), "--tokeniser", "bytes", "--out", prefix.c_str()}, "--tokeniser");
  expect_refused(tokenize_command, {"tokenize", "word", "--text", text.c_str(), "--tokenizer", "bytes", "--out", prefix.c_str()},
                 "tokenize --help");
  const std::string nowhere = folder / "no/such/out";
  try {
    (void)output_of(tokenize_command, {"tokenize", "--text", text.c_str(), "--tokenizer", "bytes", "--out", nowhere.c_str()});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("cannot write " + nowhere), std::string::npos) << error.what();
  }
}

/// English-like text that is long enough for a small vocabulary, with a byte that is not UTF-8.
std::string some_text() {
  std::string text;
  std::ifstream licence("/usr/share/common-licenses/GPL-3", std::ios::binary);
  text.assign(std::istreambuf_iterator<char>(licence), {});
  return text + "caf\x92" + std::string(10000, 'x') + "\n" + std::string(1, '\0') + "zero\n";
}

TEST(TokenizerCommand, TrainsALosslessModelThatTokenizeUses) {
  const TemporaryFolder folder;
  const std::string text = folder / "a text, with a comma";
  const std::string model = folder / "tokens,a.model";
  const std::string prefix = folder / "out";
  put(text, some_text());
  for (const char* kind : {"bpe", "unigram"}) {
    const std::string line = output_of(tokenizer_command, {"tokenizer", "--text", text.c_str(), "--vocabulary", "400", "--out",
                                                           model.c_str(), "--model", kind, "--threads", "2"});
    EXPECT_NE(line.find("400 pieces (" + std::string(kind)), std::string::npos) << line;
    const auto tokenizer = open_tokenizer(model);
    EXPECT_EQ(tokenizer->vocabulary(), 400);
    EXPECT_EQ(tokenizer->end_of_text(), 1);
    EXPECT_TRUE(tokenizer->lossless());
    EXPECT_TRUE(tokenizer->splits_at_newlines());
    EXPECT_EQ(tokenizer->encode("\n").size(), 1U) << "a newline is a piece";
    EXPECT_LE(tokenizer->encode("        ").size(), 4U) << "spaces may be pieces";
    EXPECT_EQ(output_of(tokenize_command, {"tokenize", "--text", text.c_str(), "--tokenizer", model.c_str(), "--out", prefix.c_str()})
                  .substr(0, prefix.size()),
              prefix);
    EXPECT_EQ(documents_of(prefix, *tokenizer), std::vector<std::string>{some_text()});
  }
  std::size_t left = 0;
  for (const auto& entry : fs::directory_iterator(folder.path())) left += entry.path().string().find("work") == std::string::npos ? 0 : 1;
  EXPECT_EQ(left, 0U) << "what was needed meanwhile is gone";
}

TEST(TokenizerCommand, SamplesAlike) {
  const TemporaryFolder folder;
  const std::string text = folder / "text";
  put(text, some_text());
  std::vector<std::string> models;
  for (const char* bytes : {"15000", "15000", "100000000"}) {
    const std::string model = folder / std::to_string(models.size());
    (void)output_of(tokenizer_command,
                    {"tokenizer", "--text", text.c_str(), "--vocabulary", "400", "--out", model.c_str(), "--sample-bytes", bytes});
    std::ifstream file(model, std::ios::binary);
    models.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  // The models name the folder of their making only by relative paths, so that they can be compared byte for byte.
  EXPECT_EQ(models[0], models[1]);
  EXPECT_NE(models[0], models[2]);
}

TEST(TokenizerCommand, RefusesBadInput) {
  const TemporaryFolder folder;
  const std::string text = folder / "text";
  const std::string model = folder / "model";
  const auto refused = [&](const std::string& contents, const char* vocabulary, const char* kind, const std::string& words) {
    put(text, contents);
    expect_refused(tokenizer_command,
                   {"tokenizer", "--text", text.c_str(), "--vocabulary", vocabulary, "--out", model.c_str(), "--model", kind}, words);
    EXPECT_FALSE(fs::exists(model));
  };
  refused("", "400", "bpe", "the text is empty");
  refused("\xff\xfe\n\x92\n", "400", "bpe", "no line of UTF-8");
  refused("text", "4000", "bpe", "at most 2");
  refused(some_text(), "270", "bpe", "a vocabulary of 270 is too small");
  refused(some_text(), "100", "bpe", "between 260");
  refused("text", "many", "bpe", "'many'");
  refused("text", "400", "word", "bpe or unigram");
  expect_refused(tokenizer_command, {"tokenizer", "--text", "/no/such/file", "--vocabulary", "400", "--out", model.c_str()},
                 "/no/such/file");
}

TEST(TokenizerCommand, SaysWhatIsMissing) {
  const TemporaryFolder folder;
  const std::string text = folder / "text";
  const std::string model = folder / "model";
  put(text, "text");
  const std::string path = std::getenv("PATH");
  setenv("PATH", folder.path().c_str(), 1);
  try {
    (void)output_of(tokenizer_command, {"tokenizer", "--text", text.c_str(), "--vocabulary", "400", "--out", model.c_str()});
    ADD_FAILURE() << "spm_train was found in an empty PATH";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("apt-get install sentencepiece"), std::string::npos) << error.what();
  }
  setenv("PATH", path.c_str(), 1);
}

TEST(Baselines, PrintsWhatTheModelsCost) {
  const TemporaryFolder folder;
  const std::string text = folder / "text";
  const std::string held = folder / "held";
  const std::string train = folder / "train";
  const std::string validation = folder / "validation";
  put(text, some_text());
  put(held, some_text().substr(2000, 3000));
  (void)output_of(tokenize_command, {"tokenize", "--text", text.c_str(), "--tokenizer", "bytes", "--out", train.c_str()});
  (void)output_of(tokenize_command, {"tokenize", "--text", held.c_str(), "--tokenizer", "bytes", "--out", validation.c_str()});
  const auto result = parse_json(output_of(
      baselines_command, {"baselines", "--train", train.c_str(), "--validation", validation.c_str(), "--tokenizer", "bytes", "--json"}));
  EXPECT_EQ(result["tokens"], 3001);
  EXPECT_EQ(result["bytes"], 3000);
  // The unigram by a loop of its own: bytes of the text and one end of text, half an occurrence added to each of 257.
  std::map<int, double> counts;
  for (const char c : some_text()) ++counts[static_cast<unsigned char>(c)];
  counts[256] = 1;
  const double total = static_cast<double>(some_text().size()) + 1 + 257 * 0.5;
  double bits = -std::log2((counts[256] + 0.5) / total);
  for (const char c : some_text().substr(2000, 3000)) bits -= std::log2((counts[static_cast<unsigned char>(c)] + 0.5) / total);
  EXPECT_NEAR(result["unigram"].get<double>(), bits / 3000, 1e-9);
  EXPECT_LT(result["bigram"].get<double>(), result["unigram"].get<double>());
  EXPECT_NE(output_of(baselines_command,
                      {"baselines", "--train", train.c_str(), "--validation", validation.c_str(), "--tokenizer", "bytes", "--tokens", "7"})
                .find("(7 tokens, 7 bytes)"),
            std::string::npos);
  expect_refused(baselines_command, {"baselines", "--train", "/no/such", "--validation", validation.c_str(), "--tokenizer", "bytes"},
                 "/no/such");
}

TEST(Commands, ExplainThemselves) {
  for (const auto& [command, name] : std::vector<std::pair<Command, const char*>>{
           {tokenizer_command, "tokenizer"}, {tokenize_command, "tokenize"}, {baselines_command, "baselines"}}) {
    const std::string help = output_of(command, {name, "--help"});
    EXPECT_EQ(help.find("Usage: switchyard " + std::string(name)), 0U) << help;
    EXPECT_NE(help.find("(="), std::string::npos) << "defaults are shown: " << help;
  }
}

}  // namespace
}  // namespace yard
