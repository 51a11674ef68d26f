#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>

#include "comm/agree.h"
#include "launch/bench/bench.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/config_fields.h"
#include "launch/config_reader.h"
#include "launch/config_rules.h"
#include "launch/unused_settings.h"

namespace yard {

namespace po = boost::program_options;

int bench_command(int argc, const char* const* argv) {
  const std::vector<std::string> kinds = {"gemm", "layer", "step", "generate"};
  const std::string kind = argc > 1 ? argv[1] : "";
  const std::string about =
      "gemm|layer|step|generate [--config FILE] [--set path.to.field=value]... [--precision P] [--repeat N] [--json FILE]\n\n"
      "Measures the matrix products of a configuration, one Mixture-of-Experts layer, a whole training step, or the tokens of a text that "
      "is "
      "continued, beside the floor: the same products alone by the fastest library, in the same process, or for a text the reading of the "
      "weights. Under mpirun all ranks do it at once, and the slowest one's time counts.";
  bench::Options options;
  std::string config_file;
  std::vector<std::string> settings;
  double spread = 1;
  Index tokens = 4096;
  Index width = 512;
  Index hidden = 1408;
  Index experts = 8;
  Index top_k = 2;
  Index prompt_tokens = 128;
  Index new_tokens = 128;
  po::options_description described("Options");
  described.add_options()  //
      ("config", po::value(&config_file),
       "configuration of gemm, step and generate; default launch/configs/benchmark.textproto's model")                                   //
      ("set", po::value(&settings)->composing(), "path.to.field=value; may be given again")                                              //
      ("precision", po::value(&options.precision)->default_value(options.precision), "auto, bf16 or f32; default: the configuration's")  //
      ("repeat", po::value(&options.repeat)->default_value(options.repeat), "runs that are timed")                                       //
      ("warmup", po::value(&options.warmup)->default_value(options.warmup), "runs before them")                                          //
      ("threads", po::value(&options.threads)->default_value(options.threads),
       "of a rank; 0: the cores it may use; default: run.threads")                                                          //
      ("json", po::value(&options.json), "file for the numbers")                                                            //
      ("spread", po::value(&spread)->default_value(spread), "gemm: rows of the fullest expert over those of the emptiest")  //
      ("tokens", po::value(&tokens)->default_value(tokens), "layer: tokens of all ranks")                                   //
      ("width", po::value(&width)->default_value(width), "layer: values of a token")                                        //
      ("hidden", po::value(&hidden)->default_value(hidden), "layer: inner width of an expert")                              //
      ("experts", po::value(&experts)->default_value(experts), "layer: experts")                                            //
      ("top-k", po::value(&top_k)->default_value(top_k), "layer: experts of a token")                                       //
      ("prompt-tokens", po::value(&prompt_tokens)->default_value(prompt_tokens), "generate: tokens of the prompt")          //
      ("new-tokens", po::value(&new_tokens)->default_value(new_tokens), "generate: tokens after it");
  const bool named = std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
  check_input(named || kind == "--help" || kind == "-h", "bench needs to know what to measure: ", listed(kinds, "or"),
              kind.empty() ? "" : ", not '" + kind + "'", suggestion(kind, kinds));
  const auto given = named ? parse_command(argc - 1, argv + 1, about, described) : parse_command(argc, argv, about, described);
  if (!given) return 0;
  check_input(options.repeat >= 1, "--repeat must be at least 1, got ", options.repeat);
  check_input(options.warmup >= 0, "--warmup must not be negative, got ", options.warmup);
  check_input(spread >= 1, "--spread must be at least 1, got ", spread);
  check_input(prompt_tokens >= 1, "--prompt-tokens must be at least 1, got ", prompt_tokens);
  check_input(new_tokens >= 1, "--new-tokens must be at least 1, got ", new_tokens);
  check_input(kind != "layer" || config_file.empty(), "bench layer takes the layer from its options, not from --config ", config_file,
              ": give --width, --hidden, --experts, --top-k and --tokens");
  std::vector<UnusedField> unused = {{"run.validate_every"},      {"run.log_every"},  {"data.train"},     {"data.validation"},
                                     {"data.validation_windows"}, {"data.tokenizer"}, {"data.format"},    {"data.end_of_text"},
                                     {"data.document_mask"},      {"checkpoint"},     {"init.checkpoint"}};
  if (kind != "step") unused.insert(unused.end(), {{"run.steps"}, {"data.order"}, {"data.seed"}, {"optimizer"}, {"guard"}});
  check_used("bench " + kind, settings, unused);
  const bool positions_set = is_set(settings, "model.positions");
  return run_on_ranks([&](RankRuntime& runtime) {
    RunConfig config;
    agree(runtime.control, [&] {
      // W1: what published tables of this repository refer to.
      const char* w1 =
          "model { vocabulary: 8192 width: 384 layers: 6 heads: 6 kv_heads: 2 head_width: 64 experts: 8 top_k: 2 hidden: 1024 } "
          "data { length: 256 global_batch: 16 }";
      config = config_file.empty() ? parse_config(w1, "the benchmark's model") : read_config(config_file);
      if (kind == "layer") {
        check_input(tokens % runtime.size == 0 && tokens >= runtime.size, "--tokens is ", tokens, ", but must be a multiple of the ",
                    runtime.size, " ranks");
        config = parse_config(
            fmt::format("model {{ width: {} heads: 1 head_width: 2 layers: 1 experts: {} top_k: {} hidden: {} positions: {} }} "
                        "data {{ length: {} global_batch: {} }}",
                        width, experts, top_k, hidden, tokens / runtime.size, tokens / runtime.size, runtime.size),
            "the layer");
      }
      if (!config.run().has_precision() || !(*given)["precision"].defaulted()) apply_setting(config, "run.precision=" + options.precision);
      for (const std::string& setting : settings) apply_setting(config, setting);
      if (config.run().has_threads() && (*given)["threads"].defaulted()) options.threads = config.run().threads();
      if (!config.mesh().has_expert() && config.model().experts() % runtime.size == 0) config.mutable_mesh()->set_expert(runtime.size);
      if (kind == "generate") {
        const Index needed = prompt_tokens + new_tokens + 1;
        check_input(!positions_set || config.model().positions() >= needed, "model.positions is ", config.model().positions(),
                    ", but --prompt-tokens and --new-tokens take ", needed);
        config.mutable_model()->set_positions(std::max({config.model().positions(), config.data().length(), needed}));
      }
      check_input(config.run().device() != RunConfig::Device::cuda,
                  "run.device is 'cuda', but bench compares the processor's products with its libraries: take 'cpu' or 'auto'");
      config = resolve(config, runtime.size);
    });
    if (kind == "gemm") bench::gemm(runtime, options, config, spread);
    if (kind == "layer") bench::layer(runtime, options, config);
    if (kind == "step") bench::step(runtime, options, config);
    if (kind == "generate") bench::generate(runtime, options, config, prompt_tokens, new_tokens);
  });
}

}  // namespace yard
