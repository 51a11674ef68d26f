#include <algorithm>
#include <boost/program_options.hpp>
#include <cmath>
#include <fstream>
#include <iostream>
#include <numeric>

#include "comm/agree.h"
#include "core/nn/kv_cache.h"
#include "core/random.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/loaded_model.h"

namespace yard {
namespace {

namespace po = boost::program_options;

struct Options {
  std::string checkpoint, prompt, prompts;
  std::vector<std::string> settings;
  Index tokens = 128, batch = 8;
  double temperature = 0.8, top_p = 0.95;
  std::uint64_t seed = 1;
  bool no_start = false;
};

/// One text being continued. Its draws depend on (seed, its number, position) alone, so that ranks and batches change nothing.
struct Line {
  std::size_t number = 0;
  std::vector<std::int32_t> ids;
  std::size_t prompt = 0;  // ids that were given
  bool live = false;
};

/// The next id: the largest logit at temperature 0, else drawn from the smallest set of the likeliest whose mass reaches top_p
/// (Holtzman et al. 2020).
std::int32_t choose(std::span<const float> logits, const Options& options, std::uint64_t number, std::uint64_t position) {
  const auto best = static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  if (options.temperature <= 0) return best;
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)]; });
  std::vector<double> mass(logits.size());
  double total = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const double above = logits[static_cast<std::size_t>(order[i])] - logits[static_cast<std::size_t>(best)];
    total += mass[i] = std::exp(above / options.temperature);
  }
  double kept = 0;
  std::size_t count = 0;
  while (count < mass.size() && (count == 0 || kept < options.top_p * total)) kept += mass[count++];
  double draw = kept * Random(key_of(options.seed, key_of("sampling"), number)).uniform(position);
  for (std::size_t i = 0; i < count; ++i) {
    draw -= mass[i];
    if (draw < 0) return order[i];
  }
  return order[count - 1];
}

class Generator {
 public:
  Generator(RankRuntime& runtime, LoadedModel& loaded, const Options& options)
      : runtime_(runtime), loaded_(loaded), options_(options), world_(loaded.mesh->world()) {}

  /// Continues this rank's lines; `longest` and the number of lines are equal on all ranks. A rank whose lines have ended goes on with
  /// padding, so that the others find it in every exchange.
  void run(std::vector<Line>& lines, Index longest) {
    const ModelShape& shape = loaded_.model.transformer->shape();
    const Index capacity = std::min(shape.positions, longest + options_.tokens);
    KeyValueCache cache(runtime_.stream, shape.layers, static_cast<Index>(lines.size()), capacity,
                        {shape.heads, shape.kv_heads, shape.head_width}, loaded_.compute);
    Index fresh = longest;
    for (Index made = 0; made < options_.tokens; ++made) {
      const Tensor logits = forward(lines, cache, fresh, made == 0);
      bool live = false;
      for (std::size_t i = 0; i < lines.size(); ++i) {
        Line& line = lines[i];
        if (!line.live) continue;
        cache.before().data<std::int32_t>()[i] = static_cast<std::int32_t>(line.ids.size());
        const std::int32_t id = choose(logits.row_range(static_cast<Index>(i), 1).values<float>(), options_, line.number, line.ids.size());
        line.ids.push_back(id);
        line.live = id != loaded_.tokenizer->end_of_text() && static_cast<Index>(line.ids.size()) < shape.positions;
        live = live || line.live;
      }
      fresh = 1;
      if (!any(live)) break;
    }
  }

 private:
  /// Logits after the last id of every line.                                                                    (lines, V) f32
  Tensor forward(const std::vector<Line>& lines, KeyValueCache& cache, Index fresh, bool prompt) {
    Tokens tokens;
    tokens.sequences = static_cast<Index>(lines.size());
    tokens.length = fresh;
    tokens.sequences_everywhere = tokens.sequences * world_.size();
    tokens.cache = &cache;
    tokens.ids = Tensor(runtime_.stream, {tokens.rows()}, DType::i32);
    tokens.positions = Tensor::zeros(runtime_.stream, {tokens.rows()}, DType::i32);
    Tensor last = Tensor::zeros(runtime_.stream, {tokens.sequences}, DType::i32);
    for (Index s = 0; s < tokens.sequences; ++s) {
      const Line& line = lines[static_cast<std::size_t>(s)];
      const Index before = prompt ? 0 : static_cast<Index>(line.ids.size()) - 1;
      for (Index r = 0; r < fresh; ++r) {
        const Index at = before + r;
        const bool real = line.live && at < static_cast<Index>(line.ids.size());
        tokens.ids.data<std::int32_t>()[s * fresh + r] = real ? line.ids[static_cast<std::size_t>(at)] : -1;
        tokens.positions.data<std::int32_t>()[s * fresh + r] = static_cast<std::int32_t>(at);
        if (real) last.data<std::int32_t>()[s] = static_cast<std::int32_t>(s * fresh + r);
      }
    }
    Context context{runtime_.stream, runtime_.profiler, tokens, Pass::evaluate};
    return loaded_.model.transformer->logits(context, last);
  }

  bool any(bool live) {
    Tensor flag(runtime_.stream, {1}, DType::i64);
    flag.data<std::int64_t>()[0] = live ? 1 : 0;
    world_.all_reduce(runtime_.stream, runtime_.profiler, {"generate"}, flag, Reduce::max, When::now).wait(runtime_.stream);
    return flag.data<std::int64_t>()[0] != 0;
  }

  RankRuntime& runtime_;
  LoadedModel& loaded_;
  const Options& options_;
  Communicator& world_;
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
  Communicator& world = loaded.mesh->world();
  Tensor count = Tensor::zeros(runtime.stream, {1}, DType::i64);
  if (line != nullptr) count.data<std::int64_t>()[0] = static_cast<std::int64_t>(line->ids.size());
  world.broadcast(runtime.stream, runtime.profiler, {"generate"}, count, owner).wait(runtime.stream);
  Tensor ids(runtime.stream, {count.data<std::int64_t>()[0]}, DType::i32);
  if (line != nullptr) std::copy(line->ids.begin(), line->ids.end(), ids.data<std::int32_t>());
  world.broadcast(runtime.stream, runtime.profiler, {"generate"}, ids, owner).wait(runtime.stream);
  if (runtime.rank != 0) return;
  std::cout << loaded.tokenizer->decode(ids.values<std::int32_t>()) << (several ? "\n----\n" : "\n") << std::flush;
}

void generate(RankRuntime& runtime, LoadedModel& loaded, const Options& options) {
  std::vector<Line> all;
  Index longest = 1;
  agree(loaded.mesh->world(), runtime.profiler, runtime.stream, [&] {
    for (const std::string& prompt : read_prompts(options)) {
      Line line;
      line.number = all.size();
      if (!options.no_start) line.ids.push_back(loaded.start);
      loaded.tokenizer->encode(prompt, line.ids);
      check_input(!line.ids.empty(), "an empty prompt needs the start token: leave --no-start out");
      check_input(static_cast<Index>(line.ids.size()) < loaded.config.model().positions(), "a prompt of ", line.ids.size(),
                  " tokens leaves no room within model.positions, ", loaded.config.model().positions());
      line.prompt = line.ids.size();
      line.live = true;
      longest = std::max(longest, static_cast<Index>(line.ids.size()));
      all.push_back(std::move(line));
    }
  });
  const auto ranks = static_cast<std::size_t>(loaded.mesh->size());
  const std::size_t each = std::min<std::size_t>(static_cast<std::size_t>(options.batch), (all.size() + ranks - 1) / ranks);
  bool stopped = false;
  for (std::size_t first = 0; first < all.size(); first += each * ranks) {
    std::vector<Line> mine(each);
    for (std::size_t i = 0; i < each; ++i) {
      const std::size_t number = first + i * ranks + static_cast<std::size_t>(runtime.rank);
      if (number < all.size()) mine[i] = all[number];
      if (mine[i].ids.empty()) mine[i].ids = {0};
    }
    Generator(runtime, loaded, options).run(mine, longest);
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
       "run directory, a folder such as RUN/checkpoints/step-00000100, or a Hugging Face directory")                             //
      ("prompt", po::value(&options.prompt), "text to continue")                                                                 //
      ("prompts", po::value(&options.prompts), "file with one prompt a line, instead")                                           //
      ("tokens", po::value(&options.tokens)->default_value(options.tokens), "tokens to add at most")                             //
      ("temperature", po::value(&options.temperature)->default_value(options.temperature, "0.8"), "0: always the likeliest")     //
      ("top-p", po::value(&options.top_p)->default_value(options.top_p, "0.95"), "draw from the likeliest tokens of this mass")  //
      ("seed", po::value(&options.seed)->default_value(options.seed), "of the draws")                                            //
      ("batch", po::value(&options.batch)->default_value(options.batch), "prompts of a rank at once")                            //
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
  check_input(options.temperature >= 0, "--temperature must not be negative, got ", options.temperature);
  check_input(options.top_p > 0 && options.top_p <= 1, "--top-p must be above 0 and at most 1, got ", options.top_p);
  check_input(options.batch >= 1, "--batch must be at least 1, got ", options.batch);
  return run_on_ranks([&](RankRuntime& runtime) {
    LoadedModel loaded = load_checkpoint(runtime, options.checkpoint, options.settings, true);
    generate(runtime, loaded, options);
  });
}

}  // namespace yard
