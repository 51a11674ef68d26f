#include "launch/loaded_model.h"

#include <algorithm>
#include <iostream>

#include "comm/agree.h"
#include "launch/checkpoint_config.h"
#include "launch/config_reader.h"
#include "launch/config_rules.h"
#include "launch/model_from_config.h"
#include "parallel/checkpoint/folder.h"
#include "parallel/checkpoint/reader.h"

namespace yard {
LoadedModel load_checkpoint(RankRuntime& runtime, const std::string& checkpoint, const std::vector<std::string>& settings,
                            bool needs_text) {
  LoadedModel loaded;
  agree(runtime.control, [&] {
    std::string note;
    loaded.folder = find_checkpoint(checkpoint, &note);
    if (runtime.rank == 0 && !note.empty()) std::cerr << "switchyard: " + note + "\n" << std::flush;
    const HuggingFaceConfig from = config_of_checkpoint(loaded.folder);
    RunConfig config = from.config;
    for (const std::string& setting : settings) apply_setting(config, setting);
    // A Hugging Face directory does not say what windows to take a text in.
    if (!config.data().has_length()) config.mutable_data()->set_length(std::min<Index>(config.model().positions(), 1024));
    // The layout it was trained in does not matter: experts go to as many ranks as there are, where they divide them.
    const bool divides = config.model().experts() > 1 && config.model().experts() % runtime.size == 0;
    config.mutable_mesh()->set_expert(divides ? runtime.size : 1);
    config.mutable_mesh()->set_data(divides ? 1 : runtime.size);
    config.mutable_data()->set_global_batch(runtime.size);
    config.mutable_data()->set_accumulate(1);
    config.mutable_model()->mutable_router()->clear_group_sequences();
    loaded.config = resolve(config, runtime.size);
    check_input(from.window == 0 || from.window >= loaded.config.model().positions(), "the model in ", loaded.folder,
                " attends to the last ", from.window, " tokens only (sliding_window), and knows ", loaded.config.model().positions(),
                " positions, which is not supported: set model.positions to at most ", from.window);
    if (needs_text) {
      loaded.tokenizer = open_tokenizer_of(loaded.folder, from.config);
      loaded.start = from.start >= 0 ? from.start : loaded.tokenizer->end_of_text();
    }
  });
  start_watchdog(runtime, loaded.config.run().watchdog_seconds(), "");
  bool set_threads = false;  // a checkpoint's number of threads belongs to the machine that trained it
  for (const std::string& setting : settings) set_threads = set_threads || setting.starts_with("run.threads=");
  choose_threads(runtime, set_threads ? loaded.config.run().threads() : 0);
  loaded.config.mutable_run()->set_device(choose_device(runtime, loaded.config.run().device()));
  loaded.compute = choose_precision(runtime, loaded.config.run().precision());
  loaded.mesh = runtime.make_mesh(loaded.config.mesh());
  agree(runtime.control, [&] {
    loaded.model = build_model(loaded.config, *loaded.mesh, runtime.stream(), loaded.compute);
    loaded.model.allocate(runtime.stream(), *loaded.mesh, false);
    std::vector<State*> states;
    loaded.model.transformer->visit_state([&](State& state) { states.push_back(&state); });
    load_model(runtime.stream(), loaded.folder, *loaded.model.parameters, states, loaded.config.model().experts(),
               loaded.config.model().tied_output(), nullptr);
  });
  return loaded;
}

}  // namespace yard
