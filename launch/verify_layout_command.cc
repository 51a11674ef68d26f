#include <unistd.h>

#include <fmt/format.h>
#include <array>
#include <boost/program_options.hpp>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "core/io/file.h"
#include "core/io/json.h"
#include "core/profiler.h"
#include "launch/checkpoint_config.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/config_reader.h"
#include "launch/config_rules.h"
#include "launch/data_tokenizer.h"
#include "launch/layout_compare.h"
#include "launch/run_mpirun.h"
#include "launch/unused_settings.h"

namespace yard {
namespace {

namespace po = boost::program_options;
namespace fs = std::filesystem;
using nlohmann::json;

struct Options {
  std::string config, layouts = "1x1,2x1,1x2,2x2,4x1,1x4", keep, json_file;
  std::vector<std::string> settings;
  Index steps = 20;
};

/// Ranks that share the experts, times copies of these.
struct Layout {
  int expert = 1, data = 1;
  int ranks() const { return expert * data; }
  std::string name() const { return fmt::format("{}x{}", expert, data); }
};

std::vector<Layout> parse_layouts(const std::string& text) {
  std::vector<Layout> layouts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    Layout layout;
    const char* const last = text.data() + end;
    const auto [x, first_error] = std::from_chars(text.data() + begin, last, layout.expert);
    bool ok = first_error == std::errc() && x != last && *x == 'x';
    if (ok) {
      const auto [rest, error] = std::from_chars(x + 1, last, layout.data);
      ok = error == std::errc() && rest == last && layout.expert >= 1 && layout.data >= 1 && layout.expert <= 4096 && layout.data <= 4096;
    }
    check_input(ok, "--layouts has '", text.substr(begin, end - begin),
                "'; a layout is expert x data, such as 2x1, and several have commas between them");
    layouts.push_back(layout);
    begin = end + 1;
  }
  return layouts;
}

/// Where the runs leave what they computed: the folder given, or one that is removed at the end.
class ProbeFolder {
 public:
  explicit ProbeFolder(const std::string& keep) : path_(keep), kept_(!keep.empty()) {
    if (kept_) {
      std::error_code error;
      fs::create_directories(path_, error);
      check_input(!error, "cannot make the folder --keep ", path_, ": ", error.message());
      check_input(fs::is_empty(path_), "--keep ", path_, " is not empty: name a new folder");
      return;
    }
    path_ = (fs::temp_directory_path() / "switchyard-verify-XXXXXX").string();
    if (::mkdtemp(path_.data()) == nullptr) fail("cannot make a folder ", path_, ": ", std::strerror(errno));
  }
  ProbeFolder(const ProbeFolder&) = delete;
  ProbeFolder& operator=(const ProbeFolder&) = delete;
  ~ProbeFolder() {
    std::error_code ignored;
    if (!kept_) fs::remove_all(path_, ignored);
  }
  std::string run(const std::string& name) const {
    const std::string path = path_ + "/" + name;
    fs::create_directory(path);
    return path;
  }

 private:
  std::string path_;
  bool kept_;
};

/// What every layout's run takes beside the configuration file.
std::vector<std::string> common_settings(const Options& options) {
  std::vector<std::string> settings;
  // A warm-up that was meant for a long run would not fit into these steps.
  for (const char* field : {"optimizer.warmup_steps", "optimizer.decay_steps"}) settings.push_back(std::string(field) + "=");
  settings.insert(settings.end(), {"run.precision=f32", "run.threads=1", "run.device=cpu"});  // threads: many ranks share the cores
  settings.insert(settings.end(), options.settings.begin(), options.settings.end());
  settings.push_back(fmt::format("run.steps={}", options.steps));
  return settings;
}

std::vector<std::string> settings_of(const std::vector<std::string>& common, const Layout& layout) {
  std::vector<std::string> settings = common;
  settings.push_back(fmt::format("mesh.expert={}", layout.expert));
  settings.push_back(fmt::format("mesh.data={}", layout.data));
  return settings;
}

/// Throws what a layout's run would say, before any runs.
void check_layout(const Options& options, const std::vector<std::string>& common, const Layout& layout) {
  const RunConfig config = load_config(options.config, settings_of(common, layout));
  check_input(config.run().device() != RunConfig::Device::cuda,
              "run.device is 'cuda', but layouts of several ranks run on processors only: take run.device=cpu");
  try {
    const RunConfig resolved = resolve(with_initial_checkpoint(config), layout.ranks());
    check_trainable(resolved);
    (void)open_data_tokenizer(resolved);
  } catch (const InputError& error) {
    fail_input("layout ", layout.name(), ": ", error.what());
  }
}

void run_layout(const Options& options, const std::vector<std::string>& common, const Layout& layout, const std::string& folder) {
  RankedCommand command;
  command.ranks = layout.ranks();
  command.arguments = {"train", "--config", options.config, "--probe", folder};
  for (const std::string& setting : settings_of(common, layout)) command.arguments.insert(command.arguments.end(), {"--set", setting});
  command.out = folder + "/out";
  command.err = folder + "/err";
  const int code = run_ranks(command);
  if (code == 0) return;
  const std::string sentence = "layout " + layout.name() + ": " + sentence_of_failure(command.err);
  if (code == 2) throw InputError(sentence);
  throw Error(sentence);
}

/// Columns as wide as their widest cell.
std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths(rows.front().size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += fmt::format("{:<{}}  ", row[i], widths[i]);
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

std::string in_words(const RoutingFlip& flip) {
  return fmt::format("step {}, layer {}, {} token{}", flip.step, flip.layer, flip.tokens, flip.tokens == 1 ? "" : "s");
}

std::vector<std::string> row_of(const std::string& name, const LayoutComparison& result, double after_flip) {
  const auto number = [](const Worst& worst) { return worst.value == 0 ? std::string("0") : fmt::format("{:.1e}", worst.value); };
  return {name,
          std::to_string(result.steps),
          number(result.loss),
          number(result.balance),
          number(result.dense),
          number(result.router),
          number(result.expert),
          result.counts ? fmt::format("differ from step {}", *result.counts) : "equal",
          result.flip ? in_words(*result.flip) : "none",
          !result.broken.empty() ? std::string("differs")
          : result.flip          ? fmt::format("agrees (loss bound {:.0e} from the flip on)", after_flip)
                                 : std::string("agrees"),
          number(result.checksum) + (result.checksum.value == 0 ? "" : " " + result.checksum.where)};
}

json to_json(const std::string& name, const LayoutComparison& result) {
  const auto worst = [](const Worst& difference) { return json{{"difference", difference.value}, {"where", difference.where}}; };
  json object = {{"layout", name},
                 {"steps", result.steps},
                 {"loss", worst(result.loss)},
                 {"balance_loss", worst(result.balance)},
                 {"dense_norm", worst(result.dense)},
                 {"router_norm", worst(result.router)},
                 {"expert_norm", worst(result.expert)},
                 {"gradient_checksum", worst(result.checksum)},
                 {"tokens_per_expert_equal", !result.counts.has_value()},
                 {"broken", result.broken},
                 {"agrees", result.broken.empty()}};
  if (result.counts) object["first_step_with_other_tokens_per_expert"] = *result.counts;
  if (result.flip) {
    object["first_flip"] = {
        {"step", result.flip->step}, {"moe_layer", result.flip->layer}, {"tokens", result.flip->tokens}, {"largest_gap", result.flip->gap}};
  }
  return object;
}

json curve_of(const std::vector<ProbeStep>& steps) {
  json curve = json::array();
  for (const ProbeStep& step : steps) {
    curve.push_back({{"step", step.step},
                     {"loss", step.loss},
                     {"balance_loss", step.balance_loss},
                     {"z_loss", step.z_loss},
                     {"dense_norm", step.norms.dense},
                     {"router_norm", step.norms.router},
                     {"expert_norm", step.norms.expert},
                     {"tokens_per_expert", step.tokens_per_expert}});
  }
  return curve;
}

/// Runs every layout, one after another, and compares each with the first.
class Verification {
 public:
  explicit Verification(Options options)
      : options_(std::move(options)),
        layouts_(parse_layouts(options_.layouts)),
        common_(common_settings(options_)),
        folder_(options_.keep) {}

  int run() {
    for (const Layout& layout : layouts_) check_layout(options_, common_, layout);
    const RunConfig config = load_config(options_.config, common_);
    const std::string precision = RunConfig::Precision::Value_Name(config.run().precision());
    bounds_ = bounds_in(precision == "f32" ? DType::f32 : DType::bf16);
    std::cout << fmt::format("{} step{} in each layout (expert x data), precision {}{}, {} thread{} a rank", options_.steps,
                             options_.steps == 1 ? "" : "s", precision, precision == "f32" ? "" : " (the bounds are those of bf16)",
                             config.run().threads(), config.run().threads() == 1 ? "" : "s")
              << std::endl;

    const Layout& first = layouts_.front();
    const std::string reference = start(first, first.name() + " (first)", "reference");
    steps_ = read_probe_steps(reference, first.ranks());
    json_["layouts"] = json::array({{{"layout", first.name()}, {"curve", curve_of(steps_)}}});
    const std::string again = start(first, first.name() + " (again)", "again");
    const bool same = same_probe_files(reference, again, first.ranks());
    add(first, first.name() + " again", again, same);
    for (std::size_t i = 1; i < layouts_.size(); ++i) {
      const Layout& layout = layouts_[i];
      const std::string probe = start(layout, layout.name(), fmt::format("{}-{}", i, layout.name()));
      add(layout, layout.name(), probe, true);
    }
    return report();
  }

 private:
  std::string start(const Layout& layout, const std::string& name, const std::string& folder) {
    const std::string path = folder_.run(folder);
    const auto begin = Clock::now();
    std::cout << fmt::format("{}: {} rank{} ...", name, layout.ranks(), layout.ranks() == 1 ? "" : "s") << std::flush;
    try {
      run_layout(options_, common_, layout, path);
    } catch (const Error&) {
      std::cout << std::endl;
      throw;
    }
    std::cout << fmt::format(" {:.1f} s", seconds_between(begin, Clock::now())) << std::endl;
    return path;
  }

  void add(const Layout& layout, const std::string& name, const std::string& probe, bool same) {
    const auto steps = read_probe_steps(probe, layout.ranks());
    RoutingReader reference(folder_.run("reference"), layouts_.front().ranks());
    RoutingReader other(probe, layout.ranks());
    LayoutComparison result = compare_layouts(steps_, steps, first_flip(reference, other), bounds_);
    if (!same) result.broken.push_back("the same layout gave other bits the second time");
    rows_.push_back(row_of(name, result, bounds_.loss_after_flip));
    json entry = to_json(name, result);
    entry["curve"] = curve_of(steps);
    json_["layouts"].push_back(entry);
    for (const std::string& sentence : result.broken) broken_.push_back(fmt::format("{}: {}", name, sentence));
  }

  int report() {
    std::cout << "\nLargest relative differences from " << layouts_.front().name()
              << ": loss and balance loss over all steps, gradients at step 1\n\n"
              << table(rows_) << "\n";
    for (const std::string& sentence : broken_) std::cout << sentence << "\n";
    const std::string verdict = broken_.empty() ? "The layouts agree: the split into ranks does not change the result."
                                                : fmt::format("The layouts do not agree: {} bound{} broken.", broken_.size(),
                                                              broken_.size() == 1 ? " is" : "s are");
    std::cout << verdict << std::endl;
    if (!options_.json_file.empty()) {
      json_["steps"] = options_.steps;
      json_["bounds"] = {{"loss", bounds_.loss},
                         {"loss_after_flip", bounds_.loss_after_flip},
                         {"norm", bounds_.norm},
                         {"gradient_checksum", bounds_.checksum},
                         {"gap", bounds_.gap}};
      json_["agrees"] = broken_.empty();
      json_["verdict"] = verdict;
      FileWriter file(options_.json_file);
      file.write(json_text(json_, 1) + "\n");
      file.finish();
    }
    return broken_.empty() ? 0 : 1;
  }

  Options options_;
  std::vector<Layout> layouts_;
  std::vector<std::string> common_;
  ProbeFolder folder_;
  LayoutBounds bounds_;
  std::vector<ProbeStep> steps_;  // of the first layout
  std::vector<std::vector<std::string>> rows_ = {{"layout", "steps", "loss", "balance", "dense norm", "router norm", "expert norm",
                                                  "tokens per expert", "first flip", "verdict", "gradient checksum"}};
  std::vector<std::string> broken_;
  json json_ = json::object();
};

}  // namespace

int verify_layout_command(int argc, const char* const* argv) {
  Options options;
  po::options_description described("Options");
  described.add_options()                                                              //
      ("config", po::value(&options.config), "configuration of the run, text format")  //
      ("layouts", po::value(&options.layouts)->default_value(options.layouts),
       "expert x data splits; the others are compared with the first")  //
      ("steps", po::value(&options.steps)->default_value(options.steps),
       "of each run; run.steps, so that the learning rates are those of so short a run")                             //
      ("set", po::value(&options.settings)->composing(), "path.to.field=value, after the file; may be given again")  //
      ("keep", po::value(&options.keep), "new folder for what the runs computed; default: a temporary one")          //
      ("json", po::value(&options.json_file), "file for all numbers");
  if (!parse_command(
          argc, argv,
          "--config FILE [--layouts 1x1,2x1,...] [--steps N] [--set path.to.field=value]...\n\n"
          "Runs a configuration's first steps in several layouts on this machine, starting mpirun itself, and compares them step by\n"
          "step: loss, balance loss, gradients, tokens of experts and routing. In f32 and with one thread a rank, unless --set says\n"
          "otherwise. Exits with 1 when layouts differ by more than rounding.",
          described)) {
    return 0;
  }
  if (!may_start_mpirun("verify-layout")) return 0;
  check_input(!options.config.empty(), "verify-layout needs --config FILE, for example launch/configs/quickstart.textproto");
  check_input(options.steps >= 1, "--steps must be at least 1, got ", options.steps);
  check_used("verify-layout", options.settings,
             {{"run.steps", "--steps"},
              {"mesh.expert", "--layouts"},
              {"mesh.data", "--layouts"},
              {"run.validate_every"},
              {"run.log_every"},
              {"data.validation"},
              {"data.validation_windows"},
              {"checkpoint"}});
  return Verification(std::move(options)).run();
}

}  // namespace yard
