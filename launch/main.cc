#include <fmt/format.h>
#include <array>
#include <chrono>
#include <iostream>
#include <string_view>
#include <thread>

#include "comm/agree.h"
#include "comm/mpi.h"
#include "launch/baselines_command.h"
#include "launch/build_info.h"
#include "launch/bus_error.h"
#include "launch/commands.h"
#include "launch/config_fields.h"
#include "launch/output.h"
#include "launch/tokenize_command.h"
#include "launch/tokenizer_command.h"

namespace {

struct Command {
  std::string_view name, does;
  int (*run)(int argc, const char* const* argv);
};

constexpr std::array kCommands = {
    Command{"train", "train a model", yard::train_command},
    Command{"eval", "loss, perplexity and bits per byte of a checkpoint, or its logits", yard::eval_command},
    Command{"generate", "continue a text", yard::generate_command},
    Command{"verify-layout", "show that the split into ranks does not change the result", yard::verify_layout_command},
    Command{"bench", "time matrix products, a layer or a step, beside the products alone", yard::bench_command},
    Command{"tokenizer", "train a SentencePiece model on text", yard::tokenizer_command},
    Command{"tokenize", "turn text into token files", yard::tokenize_command},
    Command{"baselines", "unigram and bigram models of token files, in bits per byte", yard::baselines_command},
};

std::string usage() {
  std::string text =
      "switchyard trains Mixture-of-Experts language models with expert parallelism over MPI.\n\nUsage: switchyard COMMAND [OPTIONS]\n\n";
  for (const Command& command : kCommands) text += fmt::format("  {:<15} {}\n", command.name, command.does);
  return text + "\n'switchyard COMMAND --help' tells more; 'switchyard --version' says which build this is.\n";
}

int run(int argc, const char* const* argv) {
  const std::string_view name = argc > 1 ? argv[1] : "";
  if (name == "--help" || name == "-h" || name == "help") {
    std::cout << usage();
    return 0;
  }
  if (name == "--version") {
    std::cout << "switchyard " << yard::kVersion << " (" << yard::kCommit << ", " << yard::kCompiler << ", " << yard::kBuildType << ")\n";
    return 0;
  }
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    if (command.name == name) return command.run(argc - 1, argv + 1);
    names.emplace_back(command.name);
  }
  yard::check_input(!name.empty(), "no command is given; the commands are ", yard::listed(names), ", and switchyard --help tells more");
  yard::fail_input("there is no command '", name, "'; the commands are ", yard::listed(names), yard::suggestion(name, names));
}

/// What was thrown before the ranks have met. Words that are wrong are wrong on every rank: rank 0 tells, and the others wait for mpirun to
/// end them, since one that left first would take rank 0 along before it has spoken.
int tell(const std::string& sentence, int code) {
  const int rank = yard::MpiRuntime::launched_rank();
  if (rank > 0 && code == 2) {
    std::this_thread::sleep_for(std::chrono::seconds(1));
  } else if (rank > 0) {
    std::cerr << "rank " + std::to_string(rank) + ": " + sentence + "\n" << std::flush;
  } else {
    std::cerr << "switchyard: " + sentence + "\n" << std::flush;
  }
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  yard::open_standard_descriptors();
  yard::report_bus_errors();
  try {
    yard::Output output;
    const int code = run(argc, argv);
    output.finish();
    return code;
  } catch (const std::exception& error) {
    return tell(yard::sentence_of(error), yard::exit_code_of(error));
  }
}
