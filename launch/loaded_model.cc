#include "launch/loaded_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>

#include "comm/agree.h"
#include "launch/checkpoint_config.h"
#include "launch/config_reader.h"
#include "launch/config_rules.h"
#include "launch/model_fits.h"
#include "parallel/checkpoint/folder.h"
#include "parallel/checkpoint/reader.h"

namespace yard {
namespace {

/// The checkpoint's configuration with `settings` in it; `given` has nothing else. What only suits the machine and the batch of the
/// training is replaced where `given` does not say it.
RunConfig config_for_use(RunConfig config, const std::vector<std::string>& settings, const RunConfig& given, int ranks) {
  // The settings of one router mean nothing to another.
  const auto& router = given.model().router();
  if (router.has_kind() && router.kind() != config.model().router().kind()) config.mutable_model()->clear_router();
  config.mutable_model()->mutable_router()->clear_group_sequences();
  if (config.run().device() == RunConfig::Device::cuda) config.mutable_run()->clear_device();  // this machine may have no GPU
  config.clear_mesh();
  for (const std::string& setting : settings) apply_setting(config, setting);
  RunConfig::Data& data = *config.mutable_data();
  // Contexts that reach beyond an attention window would need one; within it, attention is complete.
  const Index window = config.model().window();
  if (window > 0 && window < config.model().positions()) {
    check_input(!given.model().has_positions(), "model.positions is ", config.model().positions(), ", more than model.window ", window,
                " (sliding_window): longer contexts are not supported, set it to at most ", window);
    config.mutable_model()->set_positions(window);
  }
  // A Hugging Face directory does not say which length to cut texts to.
  if (!data.has_length()) data.set_length(std::min<Index>(config.model().positions(), 1024));
  if (!given.data().has_length() && (window > 0 || given.model().has_positions()))
    data.set_length(std::min(data.length(), config.model().positions()));
  data.set_global_batch(ranks);
  data.set_accumulate(1);
  // The layout it was trained in does not matter: experts go to as many ranks as there are, where they divide them.
  RunConfig::Mesh& mesh = *config.mutable_mesh();
  if (!mesh.has_expert() && mesh.has_data()) {
    mesh.set_expert(mesh.data() > 0 && ranks % mesh.data() == 0 ? ranks / mesh.data() : 1);
  } else if (!mesh.has_expert()) {
    mesh.set_expert(config.model().experts() > 1 && config.model().experts() % ranks == 0 ? ranks : 1);
  }
  return config;
}

/// Opens the tokenizer, and says which tokens stand before, between and after texts.
void open_text(LoadedModel& loaded, const HuggingFaceConfig& from, const RunConfig& given, TextUse text) {
  const RunConfig::Data& data = loaded.config.data();
  const bool replaced = given.data().has_tokenizer();
  const std::string name = replaced ? given.data().tokenizer() : tokenizer_of_checkpoint(loaded.folder, from.config);
  const bool has_text = !name.empty() && name != "none";
  if (text == TextUse::required && name == "none")
    fail_input("", loaded.folder, " has no tokenizer (data.tokenizer is 'none'): give one with --set data.tokenizer=FILE");
  if (text == TextUse::required || (text == TextUse::optional && has_text)) {
    loaded.tokenizer = replaced ? open_tokenizer(name) : open_tokenizer_of(loaded.folder, from.config);
    check_tokenizer_fits(*loaded.tokenizer, name, loaded.config);
  }
  if (data.has_end_of_text() && (given.data().has_end_of_text() || !replaced || name == "none")) {
    loaded.end_of_text = static_cast<std::int32_t>(data.end_of_text());
  } else if (loaded.tokenizer != nullptr) {
    loaded.end_of_text = loaded.tokenizer->end_of_text();
  }
  const RunConfig::Model& model = loaded.config.model();
  loaded.start = model.has_start_token() ? static_cast<std::int32_t>(model.start_token()) : loaded.end_of_text;
  loaded.stop = stop_tokens(model);
  if (loaded.stop.empty() && loaded.end_of_text >= 0) loaded.stop.push_back(loaded.end_of_text);
}

}  // namespace

LoadedModel load_checkpoint(RankRuntime& runtime, const std::string& checkpoint, const std::vector<std::string>& settings, TextUse text) {
  LoadedModel loaded;
  agree(runtime.control, [&] {
    std::string note;
    loaded.folder = find_checkpoint(checkpoint, &note);
    if (runtime.rank == 0 && !note.empty()) std::cerr << "switchyard: " + note + "\n" << std::flush;
    const HuggingFaceConfig from = config_of_checkpoint(loaded.folder);
    RunConfig given;
    for (const std::string& setting : settings) apply_setting(given, setting);
    loaded.config = resolve(config_for_use(from.config, settings, given, runtime.size), runtime.size);
    check_stored_sizes(loaded.folder, loaded.config);
    open_text(loaded, from, given, text);
  });
  start_watchdog(runtime, loaded.config.run().watchdog_seconds(), "");
  bool set_threads = false;  // a checkpoint's number of threads belongs to the machine that trained it
  for (const std::string& setting : settings) set_threads = set_threads || setting.starts_with("run.threads=");
  choose_threads(runtime, set_threads ? loaded.config.run().threads() : 0);
  loaded.config.mutable_run()->set_device(choose_device(runtime, loaded.config.run().device()));
  loaded.compute = choose_precision(runtime, loaded.config.run().precision());
  loaded.mesh = runtime.make_mesh(loaded.config.mesh());
  check_memory(runtime, costs_of(loaded.config), loaded.config, loaded.compute, false);
  agree(runtime.control, [&] {
    loaded.model = build_model(loaded.config, *loaded.mesh, runtime.stream(), loaded.compute);
    loaded.model.allocate(runtime.stream(), *loaded.mesh, false);
    std::vector<State*> states;
    loaded.model.transformer->visit_state([&](State& state) { states.push_back(&state); });
    load_model(runtime.stream(), loaded.folder, *loaded.model.parameters, states, loaded.config.model().experts(),
               loaded.config.model().tied_output(), nullptr);
    if (runtime.rank != 0) return;
    std::vector<std::string> notices = directory_notices(loaded.folder);
    if (loaded.config.model().window() == loaded.config.model().positions()) {
      notices.push_back(
          fmt::format("the model in {} attends to the last {} tokens only (sliding_window): longer contexts are not supported",
                      loaded.folder, loaded.config.model().window()));
    }
    for (const std::string& notice : notices) std::cerr << "switchyard: " + notice + "\n";
  });
  return loaded;
}

}  // namespace yard
