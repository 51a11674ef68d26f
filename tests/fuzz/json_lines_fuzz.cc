#include <algorithm>
#include <string>
#include <vector>

#include "core/data/utf8.h"
#include "launch/documents.h"
#include "tests/fuzz/fuzz.h"

/// Text files of any bytes give documents. As JSON lines, they give documents, or one sentence that names the file and the line; where bad
/// lines are skipped, only the byte-order mark of another encoding is an error.

namespace {

using namespace yard;

struct Outcome {
  std::vector<std::string> documents;
  BadLines bad;
  std::string error;
};

Outcome documents_of(const MappedFile& file, const std::string& kind, bool skip) {
  Outcome outcome;
  outcome.bad.skip = skip;
  try {
    take_documents(file, kind, outcome.bad, [&](std::string_view document) { outcome.documents.emplace_back(document); });
  } catch (const InputError& error) {
    outcome.error = error.what();
    fuzz::expect_sentence(outcome.error, file.path());
  }
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::MemoryFile memory;
  memory.set(std::as_bytes(std::span(data, size)));
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const MappedFile file(memory.path());
  const bool wide = text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff") || text.starts_with(std::string_view("\0\0\xfe\xff", 4));

  const Outcome strict = documents_of(file, "jsonl:t", false);
  const Outcome skipped = documents_of(file, "jsonl:t", true);
  fuzz::expect(skipped.error.empty() != wide && (!wide || strict.error == skipped.error), "skipping bad lines: " + skipped.error);
  fuzz::expect(
      std::equal(strict.documents.begin(), strict.documents.end(), skipped.documents.begin(),
                 skipped.documents.begin() + static_cast<std::ptrdiff_t>(std::min(strict.documents.size(), skipped.documents.size()))),
      "documents depend on whether bad lines are skipped");
  for (const std::string& document : skipped.documents) fuzz::expect(utf8_prefix(document) == document.size(), "a document is not UTF-8");
  if (!wide) {
    const auto newlines = static_cast<Index>(std::count(text.begin(), text.end(), '\n'));
    const bool only_mark = text == "\xef\xbb\xbf";
    const bool rest = !text.empty() && text.back() != '\n' && !only_mark;
    fuzz::expect(skipped.bad.lines == newlines + (rest ? 1 : 0), "lines are counted wrong");
    fuzz::expect((skipped.bad.bad > 0) == !strict.error.empty(), "bad lines are counted wrong");
    if (skipped.bad.bad > 0) fuzz::expect(skipped.bad.first == strict.error, "the first bad line is another one");
    fuzz::expect(strict.error.empty() || strict.error.find("line ") == 0, "no line is named: " + strict.error);
    fuzz::expect(static_cast<Index>(skipped.documents.size()) + skipped.bad.bad <= skipped.bad.lines, "more documents than lines");
  }

  const Outcome lines = documents_of(file, "line", false);
  const Outcome blocks = documents_of(file, "blank-line", false);
  fuzz::expect(lines.error.empty() != wide && blocks.error == lines.error, "lines: " + lines.error);
  std::string joined;
  for (const std::string& line : lines.documents) {
    fuzz::expect(line.find('\n') == std::string::npos, "a line has several");
    if (!line.empty()) joined += line + "\n";
  }
  std::string joined_blocks;
  for (const std::string& block : blocks.documents) {
    fuzz::expect(block.find("\n\n") == std::string::npos, "a block has an empty line");
    if (!block.empty()) joined_blocks += block + "\n";
  }
  fuzz::expect(joined == joined_blocks, "lines and blocks hold other texts");
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t limit, unsigned seed) {
  return fuzz::mutate_text(data, size, limit, seed);
}
