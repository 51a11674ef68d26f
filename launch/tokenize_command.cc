#include "launch/tokenize_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <string>
#include <vector>

#include "core/data/token_file.h"
#include "core/data/tokenizer.h"
#include "core/error.h"
#include "core/io/file.h"
#include "launch/command_line.h"
#include "launch/documents.h"
#include "launch/status_line.h"

namespace yard {

namespace {

namespace po = boost::program_options;

constexpr std::string_view kUsage =
    "--text FILE... --tokenizer (bytes or FILE) --out PREFIX\n\n"
    "Turns text into the token files of Megatron, PREFIX.bin and PREFIX.idx, with one end of text after each document.";
constexpr std::string_view kDocuments =
    "what a document is: file, a whole file, byte for byte; line, each line without its end of line (LF or CR LF); blank-line, lines up to "
    "an empty one, CR LF being read as LF; jsonl:FIELD, the string FIELD of the JSON object on each line. Empty documents are left out, "
    "and "
    "so is a byte-order mark, except with file";
constexpr std::size_t kSlice = std::size_t{1} << 20;  // bytes between two signs of progress

/// Encodes documents into a token file and keeps count.
class Sink {
 public:
  Sink(const Tokenizer& tokenizer, const std::string& prefix) : tokenizer_(tokenizer), writer_(prefix, tokenizer.vocabulary()) {}

  void add(std::string_view document) {
    if (document.empty()) return;
    ids_.clear();
    bytes_ += document.size();
    std::uint64_t left = document.size();
    while (!document.empty()) {
      std::size_t size = document.size();
      if (tokenizer_.splits_at_newlines() && size > kSlice) size = std::min(document.find('\n', kSlice), size - 1) + 1;
      tokenizer_.encode(document.substr(0, size), ids_);
      document.remove_prefix(size);
      left -= size;
      status_.show(fmt::format("{:.1f} MB of text", static_cast<double>(bytes_ - left) * 1e-6));
    }
    ids_.push_back(tokenizer_.end_of_text());
    writer_.add_document(ids_);
  }

  std::uint64_t bytes() const noexcept { return bytes_; }
  Index documents() const noexcept { return writer_.documents(); }
  Index tokens() const noexcept { return writer_.tokens(); }
  void finish() { writer_.finish(); }

 private:
  const Tokenizer& tokenizer_;
  MegatronWriter writer_;
  StatusLine status_;
  std::vector<std::int32_t> ids_;
  std::uint64_t bytes_ = 0;
};

}  // namespace

int tokenize_command(int argc, const char* const* argv) {
  po::options_description options("Options");
  options.add_options()("text", po::value<std::vector<std::string>>()->multitoken()->required()->value_name("FILE..."),
                        "text files, in this order")("tokenizer", po::value<std::string>()->required()->value_name("NAME"),
                                                     "'bytes', or the file of a SentencePiece model")(
      "out", po::value<std::string>()->required()->value_name("PREFIX"), "the token files to write, PREFIX.bin and PREFIX.idx")(
      "document", po::value<std::string>()->default_value("file")->value_name("KIND"), std::string(kDocuments).c_str())(
      "skip-bad-lines", po::bool_switch(),
      "with jsonl: leave out lines that are no JSON object or have no string FIELD, and say how many at the end; else the first one is an "
      "error");
  const auto given = parse_command(argc, argv, std::string(kUsage), options);
  if (!given) return 0;
  const auto start = std::chrono::steady_clock::now();
  const auto& texts = (*given)["text"].as<std::vector<std::string>>();
  const auto& prefix = (*given)["out"].as<std::string>();
  const auto& kind = (*given)["document"].as<std::string>();
  const auto tokenizer = open_tokenizer((*given)["tokenizer"].as<std::string>());
  if (!tokenizer->lossless())
    std::cerr << "the tokenizer " << (*given)["tokenizer"].as<std::string>() << " drops characters that it has no piece for, or spaces\n";
  std::vector<MappedFile> files;  // opened first, so that a wrong name is told before work is done
  for (const std::string& path : texts) files.emplace_back(path);
  BadLines bad;
  bad.skip = (*given)["skip-bad-lines"].as<bool>();
  check_input(!bad.skip || has_fields(kind), "--skip-bad-lines is for --document jsonl:FIELD, not for ", kind, ", in which no line is bad");
  Sink sink(*tokenizer, prefix);
  for (const MappedFile& file : files) take_documents(file, kind, bad, [&](std::string_view document) { sink.add(document); });
  check_input(sink.documents() > 0, "the text is empty: ", texts[0], texts.size() > 1 ? " and the other files hold" : " holds",
              " no document", bad.bad == 0 ? "" : "; " + bad.first);
  sink.finish();
  if (bad.skip)
    std::cerr << "skipped " << bad.bad << " bad line" << (bad.bad == 1 ? "" : "s") << " of " << bad.lines
              << (bad.bad == 0 ? "" : "; the first: " + bad.first) << "\n";
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::cout << fmt::format("{}: {} document{}, {} tokens, {:.2f} bytes a token, in {:.1f} s\n", prefix, sink.documents(),
                           sink.documents() == 1 ? "" : "s", sink.tokens(),
                           static_cast<double>(sink.bytes()) / static_cast<double>(sink.tokens()), seconds);
  return 0;
}

}  // namespace yard
