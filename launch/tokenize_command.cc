#include "launch/tokenize_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "core/data/token_file.h"
#include "core/data/tokenizer.h"
#include "core/error.h"
#include "core/io/file.h"
#include "core/io/json.h"
#include "launch/command_line.h"
#include "launch/status_line.h"
#include "launch/text_lines.h"

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

using TakeDocument = std::function<void(std::string_view)>;

/// Lines that hold no document, of all files.
struct BadLines {
  bool skip = false;  // else the first one is an error
  Index lines = 0, bad = 0;
  std::string first;  // what was wrong

  template <class... Parts>
  void reject(const Parts&... parts) {
    std::ostringstream sentence;
    (sentence << ... << parts);
    if (!skip) fail_input("", sentence.str());
    if (bad++ == 0) first = sentence.str();
  }
};

void take_lines(const MappedFile& file, const TakeDocument& take) {
  for (std::string_view text = without_byte_order_mark(file.text(), file.path()); !text.empty();) {
    const std::string_view line = line_of(text);
    text.remove_prefix(line.size());
    take(without_line_end(line));
  }
}

void take_blocks(const MappedFile& file, const TakeDocument& take) {
  std::string_view text = without_byte_order_mark(file.text(), file.path());
  while (!text.empty()) {
    std::size_t size = 0;
    std::size_t gap = 0;
    while (size < text.size() && gap == 0) {
      const std::string_view line = line_of(text.substr(size));
      if (without_line_end(line).empty()) {
        gap = line.size();
      } else {
        size += line.size();
      }
    }
    const std::string_view block = without_line_end(text.substr(0, size));
    if (block.find("\r\n") == std::string_view::npos) {
      take(block);
    } else {
      take(with_unix_line_ends(block));
    }
    text.remove_prefix(size + gap);
  }
}

void take_fields(const MappedFile& file, const std::string& field, BadLines& bad, const TakeDocument& take) {
  using nlohmann::json;
  Index number = 0;
  take_lines(file, [&](std::string_view line) {
    ++number;
    ++bad.lines;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
    std::string wrong;
    const json object = parse_json(line, wrong);
    if (!object.is_object()) {
      if (wrong.empty()) wrong = std::string("it is of the type ") + object.type_name();
      return bad.reject("line ", number, " of ", file.path(), " is no JSON object: ", wrong);
    }
    const auto value = object.find(field);
    if (value == object.end()) return bad.reject("line ", number, " of ", file.path(), " has no string '", field, "'");
    if (!value->is_string())
      return bad.reject("line ", number, " of ", file.path(), " has no string '", field, "': it is of the type ", value->type_name());
    take(value->get_ref<const std::string&>());
  });
}

constexpr std::string_view kFields = "jsonl:";

/// Hands every document of a file to `take`.
void take_documents(const MappedFile& file, const std::string& kind, BadLines& bad, const TakeDocument& take) {
  if (kind == "file") {
    take(file.text());
  } else if (kind == "line") {
    take_lines(file, take);
  } else if (kind == "blank-line") {
    take_blocks(file, take);
  } else if (kind.starts_with(kFields) && kind.size() > kFields.size()) {
    take_fields(file, kind.substr(kFields.size()), bad, take);
  } else {
    fail_input("--document is '", kind, "'; it must be file, line, blank-line or jsonl:FIELD");
  }
}

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
  check_input(!bad.skip || kind.starts_with(kFields), "--skip-bad-lines is for --document jsonl:FIELD, not for ", kind,
              ", in which no line is bad");
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
