#include <boost/program_options.hpp>
#include <iostream>
#include <optional>

#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/config_reader.h"
#include "launch/training_run.h"

namespace yard {

namespace po = boost::program_options;

int train_command(int argc, const char* const* argv) {
  TrainOptions options;
  std::string exit_after;
  for (int i = 0; i < argc; ++i) options.command += (i == 0 ? "switchyard " : " ") + std::string(argv[i]);
  po::options_description described("Options");
  described.add_options()                                                                                            //
      ("config", po::value(&options.config), "configuration, text format; see --help-config")                        //
      ("set", po::value(&options.settings)->composing(), "path.to.field=value, after the file; may be given again")  //
      ("run-dir", po::value(&options.run_dir), "where the run is written; default runs/NAME-TIME")                   //
      ("resume", po::value(&options.resume)->default_value(options.resume),
       "auto: from the run directory's newest checkpoint; never; or a checkpoint")                                                       //
      ("exit-after", po::value(&exit_after), "after this time, such as 55m, save and end with code 0, as SIGTERM and SIGUSR1 do")        //
      ("time-steps", po::value(&options.time_steps)->default_value(0), "only time this many steps, write nothing, print one JSON line")  //
      ("probe", po::value(&options.probe), "write into this folder what each step computed, for verify-layout, and nothing else")        //
      ("help-config", "print every field of the configuration with its meaning and default");
  const auto given = parse_command(argc, argv,
                                   "--config FILE [--set path.to.field=value]... [--run-dir FOLDER]\n\nTrains a model; under mpirun -np N "
                                   "on N = mesh.expert x mesh.data ranks.",
                                   described);
  if (!given) return 0;
  if (given->count("help-config") > 0) {
    std::cout << config_reference() << std::flush;
    return 0;
  }
  check_input(!options.config.empty(), "train needs --config FILE, for example launch/configs/quickstart.textproto");
  // Before MPI and OpenMP make threads.
  StopRequest stop(exit_after.empty() ? std::nullopt : std::optional(parse_duration(exit_after, "--exit-after")));
  return run_on_ranks([&](RankRuntime& runtime) { run_training(runtime, options, stop); });
}

}  // namespace yard
