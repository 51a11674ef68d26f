#include "launch/tokenizer_command.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "core/data/tokenizer.h"
#include "core/data/utf8.h"
#include "core/error.h"
#include "core/io/file.h"
#include "core/random.h"
#include "launch/command_line.h"
#include "launch/status_line.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): POSIX says that no header need declare it

namespace yard {

namespace {

namespace fs = std::filesystem;
namespace po = boost::program_options;

constexpr std::size_t kLongestLine = 4000;  // bytes; spm_train skips lines above 4192
constexpr std::string_view kUsage =
    "--text FILE... --vocabulary N --out FILE\n\n"
    "Trains a SentencePiece model on text, with the program spm_train. The model is lossless: spaces are kept, a newline is a piece of its "
    "own,\n"
    "and what has no piece travels as bytes. Text that is not UTF-8 is left out of the training, and is still encoded without loss.";

/// A folder beside the output for what is only needed meanwhile.
class WorkFolder {
 public:
  explicit WorkFolder(const std::string& beside) : path_(beside + ".work-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) fail("cannot make a folder beside ", beside, ": ", std::strerror(errno));
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  ~WorkFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string operator/(const char* name) const { return path_ + "/" + name; }
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

/// Where to break a line that is too long: after the last space, else before the last character that does not fit.
std::size_t break_of(std::string_view line) {
  if (line.size() <= kLongestLine) return line.size();
  const std::size_t space = line.rfind(' ', kLongestLine - 1);
  if (space != std::string_view::npos && space > 0) return space;
  std::size_t at = kLongestLine;
  while ((static_cast<unsigned char>(line[at]) & 0xc0U) == 0x80U) --at;
  return at;
}

/// Writes the parts of a line that spm_train can learn from: valid UTF-8 without zeros, in lengths that it takes.
void write_line(std::string_view line, FileWriter& out) {
  while (!line.empty()) {
    std::string_view valid = line.substr(0, utf8_prefix(line));
    valid = valid.substr(0, valid.find('\0'));
    line.remove_prefix(std::min(valid.size() + 1, line.size()));
    while (!valid.empty()) {
      const std::size_t size = break_of(valid);
      out.write(valid.substr(0, size));
      out.write("\n");
      valid.remove_prefix(size);
    }
  }
}

struct Sample {
  std::uint64_t total = 0, taken = 0;  // bytes
};

/// Writes about `wanted` bytes of the texts, as lines drawn by their number: the same text gives the same sample.
Sample write_sample(const std::vector<std::string>& paths, std::uint64_t wanted, const std::string& to) {
  std::vector<MappedFile> files;
  Sample sample;
  for (const std::string& path : paths) {
    files.emplace_back(path);
    sample.total += files.back().bytes().size();
  }
  const Random random(key_of("tokenizer sample"));
  const double share = static_cast<double>(wanted) / static_cast<double>(std::max<std::uint64_t>(sample.total, 1));
  FileWriter out(to);
  std::uint64_t number = 0;
  for (const MappedFile& file : files) {
    for (std::string_view text = file.text(); !text.empty(); ++number) {
      const std::string_view line = text.substr(0, text.find('\n'));
      text.remove_prefix(std::min(line.size() + 1, text.size()));
      if (share >= 1 || static_cast<double>(random.uniform(number)) < share) write_line(line, out);
    }
  }
  sample.taken = out.written();
  out.finish();
  return sample;
}

/// Runs a program in a folder, its output going to the file `log` there; its exit code.
int run_program(const std::vector<std::string>& arguments, const std::string& folder, const char* missing) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments)
    argv.push_back(const_cast<char*>(argument.c_str()));  // NOLINT(cppcoreguidelines-pro-type-const-cast)
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "log", O_WRONLY | O_CREAT | O_TRUNC, 0666);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  check(error != ENOENT, missing);
  check(error == 0, "cannot run ", arguments[0], ": ", std::strerror(error));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) check(errno == EINTR, "cannot wait for ", arguments[0], ": ", std::strerror(errno));
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// The digits that follow some words, empty when the words are not there.
std::string number_after(const std::string& text, std::string_view words) {
  const std::size_t found = text.find(words);
  if (found == std::string::npos) return "";
  const std::size_t first = found + words.size();
  return text.substr(first, text.find_first_not_of("0123456789", first) - first);
}

/// Says in one sentence why spm_train did not succeed.
[[noreturn]] void explain(const std::string& log, std::int64_t vocabulary) {
  std::ifstream file(log, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const std::string most = number_after(text, "set it to a value <= ");
  check_input(most.empty(), "the text has pieces for a vocabulary of at most ", most, ", not ", vocabulary,
              "; give more text or a smaller --vocabulary");
  const std::string least = number_after(text, "smaller than required_chars. " + std::to_string(vocabulary) + " vs ");
  check_input(least.empty(), "a vocabulary of ", vocabulary, " is too small: bytes and the characters of this text alone take ", least);
  std::istringstream lines(text);
  std::string last = "it said nothing";
  for (std::string line; std::getline(lines, line);) {
    if (line.find("unrecoverable") == std::string::npos && !line.empty()) last = line;
  }
  fail("spm_train failed: ", last);
}

void train(const WorkFolder& folder, const std::string& model, std::int64_t vocabulary, unsigned threads) {
  const std::vector<std::string> arguments = {"spm_train",
                                              "--input=text",  // relative, since spm_train splits this at commas
                                              "--model_prefix=trained",
                                              "--model_type=" + model,
                                              "--vocab_size=" + std::to_string(vocabulary),
                                              "--normalization_rule_name=identity",
                                              "--remove_extra_whitespaces=false",
                                              "--add_dummy_prefix=false",
                                              "--allow_whitespace_only_pieces=true",
                                              "--byte_fallback=true",
                                              "--user_defined_symbols=\n",
                                              "--unk_id=0",
                                              "--eos_id=1",
                                              "--bos_id=-1",
                                              "--pad_id=-1",
                                              "--minloglevel=1",
                                              "--num_threads=" + std::to_string(threads)};
  const int code = run_program(arguments, folder.path(), "the program spm_train is not installed; apt-get install sentencepiece brings it");
  if (code != 0) explain(folder / "log", vocabulary);
}

}  // namespace

int tokenizer_command(int argc, const char* const* argv) {
  const unsigned cores = std::clamp(std::thread::hardware_concurrency(), 1U, 16U);
  po::options_description options("Options");
  options.add_options()("text", po::value<std::vector<std::string>>()->multitoken()->required()->value_name("FILE..."),
                        "text files to learn from")("vocabulary", po::value<std::int64_t>()->required()->value_name("N"),
                                                    "number of pieces, 256 of them bytes")(
      "out", po::value<std::string>()->required()->value_name("FILE"), "the model to write")(
      "model", po::value<std::string>()->default_value("bpe")->value_name("KIND"), "bpe or unigram")(
      "sample-bytes", po::value<std::uint64_t>()->default_value(10'000'000)->value_name("N"),
      "learn from about so many bytes, lines drawn evenly; more takes longer and hardly changes the pieces")(
      "threads", po::value<unsigned>()->default_value(cores)->value_name("N"), "threads of spm_train");
  const auto given = parse_command(argc, argv, std::string(kUsage), options);
  if (!given) return 0;
  const auto vocabulary = (*given)["vocabulary"].as<std::int64_t>();
  const auto model = (*given)["model"].as<std::string>();
  const auto& out = (*given)["out"].as<std::string>();
  const auto threads = (*given)["threads"].as<unsigned>();
  const auto wanted = (*given)["sample-bytes"].as<std::uint64_t>();
  check_input(model == "bpe" || model == "unigram", "--model is '", model, "'; it must be bpe or unigram");
  check_input(vocabulary >= 260 && vocabulary <= 1'000'000, "--vocabulary is ", vocabulary,
              "; it must be between 260 (256 bytes, unknown, end of text, newline and a letter) and 1000000");
  check_input(threads >= 1 && threads <= 128, "--threads is ", threads, "; it must be between 1 and 128");
  check_input(wanted > 0, "--sample-bytes is 0; it must be at least 1");
  const auto start = std::chrono::steady_clock::now();
  const std::vector<std::string>& texts = (*given)["text"].as<std::vector<std::string>>();
  const WorkFolder folder(out);
  const Sample sample = write_sample(texts, wanted, folder / "text");
  check_input(sample.taken > 0, sample.total == 0 ? "the text is empty: " : "the text has no line of UTF-8 to learn from: ", texts[0],
              texts.size() > 1 ? " and the other files" : "");
  {
    StatusLine status;
    status.show(fmt::format("learning {} pieces from {:.1f} MB of text", vocabulary, static_cast<double>(sample.taken) * 1e-6));
    train(folder, model, vocabulary, threads);
  }
  const auto tokenizer = open_tokenizer(folder / "trained.model");
  check(tokenizer->vocabulary() == vocabulary && tokenizer->lossless(), "spm_train made a model of ", tokenizer->vocabulary(),
        " pieces instead of ", vocabulary);
  rename_file(folder / "trained.model", out);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::cout << fmt::format("{}: {} pieces ({}), learned from {:.1f} MB of {:.1f} MB of text in {:.1f} s\n", out, vocabulary, model,
                           static_cast<double>(sample.taken) * 1e-6, static_cast<double>(sample.total) * 1e-6, seconds);
  return 0;
}

}  // namespace yard
