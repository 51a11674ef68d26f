#include <algorithm>
#include <boost/program_options.hpp>
#include <iostream>

#include "comm/agree.h"
#include "comm/text.h"
#include "core/io/file.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/generator.h"
#include "launch/growing_text.h"
#include "launch/loaded_model.h"
#include "launch/text_lines.h"
#include "launch/unused_settings.h"

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

/// The prompts, from --prompt or the lines of --prompts, which rank 0 reads. Collective.
std::vector<std::string> read_prompts(RankRuntime& runtime, const Options& options) {
  if (options.prompts.empty()) return {options.prompt};
  std::string text;
  agree(runtime.control, [&] {
    if (runtime.rank != 0) return;
    const std::string bytes = read_text_file(options.prompts);
    text = without_byte_order_mark(bytes, options.prompts);
    check_input(text.find_first_not_of("\r\n") != std::string::npos, "there is no prompt in ", options.prompts, "; write one a line");
  });
  text = broadcast_text(runtime.control, text);
  std::vector<std::string> prompts;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view line = line_of(rest);
    rest.remove_prefix(line.size());
    if (!without_line_end(line).empty()) prompts.emplace_back(without_line_end(line));
  }
  return prompts;
}

/// Ids of line i as text, from rank i % ranks to rank 0, which prints. `skipped` is the number of start tokens.
void print_line(RankRuntime& runtime, LoadedModel& loaded, const Line* line, int owner, std::size_t skipped) {
  Tensor count = Tensor::zeros(runtime.host, {1}, DType::i64);
  if (line != nullptr) count.data<std::int64_t>()[0] = static_cast<std::int64_t>(line->ids.size());
  runtime.control.broadcast(runtime.host, {kGenerate}, count, owner).wait(runtime.host);
  Tensor ids(runtime.host, {count.data<std::int64_t>()[0]}, DType::i32);
  if (line != nullptr) std::copy(line->ids.begin(), line->ids.end(), ids.data<std::int32_t>());
  runtime.control.broadcast(runtime.host, {kGenerate}, ids, owner).wait(runtime.host);
  if (runtime.rank != 0) return;
  std::cout << loaded.tokenizer->decode(ids.values<std::int32_t>().subspan(skipped)) << "\n----\n" << std::flush;
}

void generate(RankRuntime& runtime, LoadedModel& loaded, const Options& options) {
  const std::vector<std::string> prompts = read_prompts(runtime, options);
  const std::size_t skipped = options.no_start || loaded.start < 0 ? 0 : 1;
  std::vector<Line> all;
  std::vector<std::uint8_t> drawable;
  Index longest = 1;
  agree(runtime.control, [&] {
    drawable = drawable_ids(*loaded.tokenizer, loaded.stop, loaded.config.model().vocabulary());
    for (const std::string& prompt : prompts) {
      Line line;
      line.number = all.size();
      if (skipped == 1) line.ids.push_back(loaded.start);
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
  Generator generator(runtime, *loaded.model.transformer, options.sampling, loaded.stop, std::move(drawable));
  GrowingText growing(*loaded.tokenizer, skipped, std::cout);
  const bool several = all.size() > 1;
  const bool prints = !several && runtime.rank == 0;  // the owner of the only line
  for (std::size_t first = 0; first < all.size(); first += each * ranks) {
    std::vector<Line> mine(each);
    for (std::size_t i = 0; i < each; ++i) {
      const std::size_t number = first + i * ranks + static_cast<std::size_t>(runtime.rank);
      if (number < all.size()) mine[i] = all[number];
      if (mine[i].ids.empty()) mine[i].ids = {0};
    }
    if (prints) growing.show(mine[0].ids);
    generator.run(mine, longest, options.tokens, [&](const std::vector<Line>& lines) {
      if (prints) growing.show(lines[0].ids);
    });
    if (prints) growing.finish();
    for (std::size_t number = first; number < std::min(all.size(), first + each * ranks); ++number) {
      const std::size_t at = number - first;
      const bool here = static_cast<int>(at % ranks) == runtime.rank;
      if (several) print_line(runtime, loaded, here ? &mine[at / ranks] : nullptr, static_cast<int>(at % ranks), skipped);
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
       "run directory, a folder such as RUN/checkpoints/step-00000100, or a Hugging Face directory")              //
      ("prompt", po::value(&options.prompt), "text to continue")                                                  //
      ("prompts", po::value(&options.prompts), "file with one prompt a line, instead; empty lines are left out")  //
      ("tokens", po::value(&options.tokens)->default_value(options.tokens), "tokens to add at most")              //
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
          "--checkpoint FOLDER (--prompt TEXT | --prompts FILE)\n\nContinues texts; under mpirun the experts are spread over all ranks. "
          "Only ids "
          "that the tokenizer\nhas a text for are drawn, and those that end a text. A single text is printed token by token; several are "
          "printed\nafter each batch.",
          described)) {
    return 0;
  }
  check_input(!options.checkpoint.empty(), "generate needs --checkpoint FOLDER");
  check_input(options.tokens >= 1, "--tokens must be at least 1, got ", options.tokens);
  check_input(options.sampling.temperature >= 0, "--temperature must not be negative, got ", options.sampling.temperature);
  check_input(options.sampling.top_p > 0 && options.sampling.top_p <= 1, "--top-p must be above 0 and at most 1, got ",
              options.sampling.top_p);
  check_input(options.batch >= 1, "--batch must be at least 1, got ", options.batch);
  std::vector<UnusedField> unused = fields_of_training();
  unused.insert(unused.end(), {{"data.length"}, {"data.format"}, {"data.document_mask"}});
  check_used("generate", options.settings, unused);
  return run_on_ranks([&](RankRuntime& runtime) {
    LoadedModel loaded = load_checkpoint(runtime, options.checkpoint, options.settings, TextUse::required);
    generate(runtime, loaded, options);
  });
}

}  // namespace yard
