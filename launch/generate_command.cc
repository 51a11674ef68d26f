#include <algorithm>
#include <boost/program_options.hpp>
#include <fstream>
#include <iostream>

#include "comm/agree.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/generator.h"
#include "launch/loaded_model.h"

namespace yard {
namespace {

namespace po = boost::program_options;

YARD_COLLECTIVE kGenerate{"generate"};

struct Options {
  std::string checkpoint, prompt, prompts;
  std::vector<std::string> settings;
  Index tokens = 128, batch = 8;
  Sampling sampling;
  bool no_start = false;
};

std::vector<std::string> read_prompts(const Options& options) {
  if (options.prompts.empty()) return {options.prompt};
  std::ifstream file(options.prompts, std::ios::binary);
  check_input(file.good(), "cannot read the prompts of ", options.prompts);
  std::vector<std::string> prompts;
  for (std::string line; std::getline(file, line);) prompts.push_back(line);
  check_input(!prompts.empty(), options.prompts.empty() ? "" : "there is no prompt in ", options.prompts, "; write one a line");
  return prompts;
}

/// Ids of line i as text, from rank i % ranks to rank 0, which prints.
void print_line(RankRuntime& runtime, LoadedModel& loaded, const Line* line, int owner, bool several) {
  Tensor count = Tensor::zeros(runtime.host, {1}, DType::i64);
  if (line != nullptr) count.data<std::int64_t>()[0] = static_cast<std::int64_t>(line->ids.size());
  runtime.control.broadcast(runtime.host, {kGenerate}, count, owner).wait(runtime.host);
  Tensor ids(runtime.host, {count.data<std::int64_t>()[0]}, DType::i32);
  if (line != nullptr) std::copy(line->ids.begin(), line->ids.end(), ids.data<std::int32_t>());
  runtime.control.broadcast(runtime.host, {kGenerate}, ids, owner).wait(runtime.host);
  if (runtime.rank != 0) return;
  std::cout << loaded.tokenizer->decode(ids.values<std::int32_t>()) << (several ? "\n----\n" : "\n") << std::flush;
}

void generate(RankRuntime& runtime, LoadedModel& loaded, const Options& options) {
  std::vector<Line> all;
  Index longest = 1;
  agree(runtime.control, [&] {
    for (const std::string& prompt : read_prompts(options)) {
      Line line;
      line.number = all.size();
      if (!options.no_start) line.ids.push_back(loaded.start);
      loaded.tokenizer->encode(prompt, line.ids);
      check_input(!line.ids.empty(), "an empty prompt needs the start token: leave --no-start out");
      check_input(static_cast<Index>(line.ids.size()) < loaded.config.model().positions(), "a prompt of ", line.ids.size(),
                  " tokens leaves no room within model.positions, ", loaded.config.model().positions());
      line.live = true;
      longest = std::max(longest, static_cast<Index>(line.ids.size()));
      all.push_back(std::move(line));
    }
  });
  const auto ranks = static_cast<std::size_t>(loaded.mesh->size());
  const std::size_t each = std::min<std::size_t>(static_cast<std::size_t>(options.batch), (all.size() + ranks - 1) / ranks);
  bool stopped = false;
  Generator generator(runtime, *loaded.model.transformer, options.sampling, loaded.tokenizer->end_of_text());
  for (std::size_t first = 0; first < all.size(); first += each * ranks) {
    std::vector<Line> mine(each);
    for (std::size_t i = 0; i < each; ++i) {
      const std::size_t number = first + i * ranks + static_cast<std::size_t>(runtime.rank);
      if (number < all.size()) mine[i] = all[number];
      if (mine[i].ids.empty()) mine[i].ids = {0};
    }
    generator.run(mine, longest, options.tokens);
    for (std::size_t number = first; number < std::min(all.size(), first + each * ranks); ++number) {
      const std::size_t at = number - first;
      const bool here = static_cast<int>(at % ranks) == runtime.rank;
      print_line(runtime, loaded, here ? &mine[at / ranks] : nullptr, static_cast<int>(at % ranks), all.size() > 1);
      stopped = stopped || (here && static_cast<Index>(mine[at / ranks].ids.size()) >= loaded.config.model().positions());
    }
  }
  if (stopped)
    std::cerr << "switchyard: stopped at model.positions, " << loaded.config.model().positions()
              << " tokens: the model knows no more positions\n";
}

}  // namespace

int generate_command(int argc, const char* const* argv) {
  Options options;
  po::options_description described("Options");
  described.add_options()  //
      ("checkpoint", po::value(&options.checkpoint),
       "run directory, a folder such as RUN/checkpoints/step-00000100, or a Hugging Face directory")  //
      ("prompt", po::value(&options.prompt), "text to continue")                                      //
      ("prompts", po::value(&options.prompts), "file with one prompt a line, instead")                //
      ("tokens", po::value(&options.tokens)->default_value(options.tokens), "tokens to add at most")  //
      ("temperature", po::value(&options.sampling.temperature)->default_value(options.sampling.temperature, "0.8"),
       "0: always the likeliest")  //
      ("top-p", po::value(&options.sampling.top_p)->default_value(options.sampling.top_p, "0.95"),
       "draw from the likeliest tokens of this mass")                                                    //
      ("seed", po::value(&options.sampling.seed)->default_value(options.sampling.seed), "of the draws")  //
      ("batch", po::value(&options.batch)->default_value(options.batch), "prompts of a rank at once")    //
      ("no-start", po::bool_switch(&options.no_start),
       "no start token (an end of text, or bos_token_id of a Hugging Face directory) before the prompt")  //
      ("set", po::value(&options.settings)->composing(), "path.to.field=value for the checkpoint's configuration");
  if (!parse_command(
          argc, argv,
          "--checkpoint FOLDER (--prompt TEXT | --prompts FILE)\n\nContinues texts; under mpirun the experts are spread over all ranks.",
          described)) {
    return 0;
  }
  check_input(!options.checkpoint.empty(), "generate needs --checkpoint FOLDER");
  check_input(options.tokens >= 1, "--tokens must be at least 1, got ", options.tokens);
  check_input(options.sampling.temperature >= 0, "--temperature must not be negative, got ", options.sampling.temperature);
  check_input(options.sampling.top_p > 0 && options.sampling.top_p <= 1, "--top-p must be above 0 and at most 1, got ",
              options.sampling.top_p);
  check_input(options.batch >= 1, "--batch must be at least 1, got ", options.batch);
  return run_on_ranks([&](RankRuntime& runtime) {
    LoadedModel loaded = load_checkpoint(runtime, options.checkpoint, options.settings, true);
    generate(runtime, loaded, options);
  });
}

}  // namespace yard
