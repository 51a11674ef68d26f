#pragma once

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "core/data/token_file.h"
#include "tests/support/support.h"

namespace yard::test {

/// The real program in a folder of its own, with tokens `text` (10,000 of 257) and a small configuration `c`.
class Program {
 public:
  Program() {
    MegatronWriter writer(folder_ / "text", 257);
    writer.add_document(ids());
    writer.finish();
    write("c", config());
  }
  static std::vector<std::int32_t> ids() {
    std::vector<std::int32_t> values(10000);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int32_t>(i * i / 7 % 251);
    return values;
  }
  static std::string config() {
    return "run { steps: 4 seed: 3 precision: f32 threads: 1 }\n"
           "model { vocabulary: 257 width: 32 layers: 2 heads: 4 experts: 4 top_k: 2 hidden: 32 }\n"
           "data { train: 'text' length: 32 global_batch: 8 order: sequential }\n"
           "checkpoint { every: 2 }\n";
  }
  std::string operator/(const std::string& name) const { return folder_ / name; }
  void write(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name, std::ios::binary) << text; }
  std::string read(const std::string& name) const {
    std::ifstream file(folder_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  bool has(const std::string& name) const { return std::filesystem::exists(folder_ / name); }

  /// How a shell starts it there; 0 ranks: without mpirun. `before` comes right before its name. One that hangs ends with code 124.
  std::string line(const std::string& words, int ranks, const std::string& before = "") const {
    const std::string mpirun = ranks > 0 ? std::string(YARD_MPIRUN) + " -q -np " + std::to_string(ranks) + " " : std::string();
    return "cd '" + folder_.path() + "' && timeout -k 5 90 " + mpirun + before + YARD_BINARY + " " + words;
  }
  CommandResult run(const std::string& words, int ranks = 0) const { return run_command(line(words, ranks)); }

 private:
  TemporaryFolder folder_;
};

/// The lines of a text that Switchyard wrote: they begin with its name or a rank.
inline std::vector<std::string> own_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with("switchyard: ") || line.starts_with("rank ")) lines.push_back(line);
  }
  return lines;
}

/// Fails unless the program ended with `code` and said one sentence, once, that holds all `words`.
inline void expect_sentence(const CommandResult& result, int code, const std::vector<std::string>& words) {
  EXPECT_EQ(result.code, code) << result.err;
  const auto lines = own_lines(result.err);
  EXPECT_EQ(lines.size(), 1U) << result.err;
  EXPECT_EQ(result.err.find("terminate called"), std::string::npos) << result.err;
  for (const std::string& word : words) {
    EXPECT_TRUE(!lines.empty() && lines[0].find(word) != std::string::npos) << "'" << word << "' is not in: " << result.err;
  }
}

}  // namespace yard::test
