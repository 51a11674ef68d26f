#include "launch/training_run.h"

#include <fmt/format.h>

#include <functional>
#include <iostream>
#include <map>
#include <optional>

#include "comm/agree.h"
#include "comm/mpi.h"
#include "comm/text.h"
#include "core/data/tokenizer.h"
#include "core/device/cpu.h"
#include "core/device/gpu.h"
#include "core/io/file.h"
#include "core/io/json.h"
#include "core/ops/matmul.h"
#include "launch/append_file.h"
#include "launch/checkpoint_config.h"
#include "launch/config_reader.h"
#include "launch/config_rules.h"
#include "launch/data_scan.h"
#include "launch/data_tokenizer.h"
#include "launch/environment.h"
#include "launch/memory_table.h"
#include "launch/metrics_log.h"
#include "launch/model_fits.h"
#include "launch/probe.h"
#include "launch/progress.h"
#include "launch/run_directory.h"
#include "launch/run_lock.h"
#include "launch/run_log.h"
#include "launch/step_metrics.h"
#include "launch/tensorboard.h"
#include "launch/trainer.h"

namespace yard {
namespace {

YARD_COLLECTIVE kEndOfStep{"end_of_step"};

/// A run from its configuration to its last checkpoint.
class Run {
 public:
  Run(RankRuntime& runtime, const TrainOptions& options, StopRequest& stop)
      : runtime_(runtime), options_(options), stop_(stop), log_(runtime.rank == 0 ? 1 : -1) {}

  void train() {
    prepare();
    if (!finished()) train_steps();
    agree(runtime_.control, [&] { log_.check_screen(); });
  }

 private:
  void train_steps() {
    set_up();
    if (options_.only_steps()) {
      options_.probe.empty() ? time_steps() : probe_steps();
      return;
    }
    load();
    start();
    const Index steps = config_.run().steps();
    Progress progress(log_, steps, trainer_->steps_done(), config_.run().log_every());
    int stopped = 0;
    try {
      while (trainer_->steps_done() < steps && stopped == 0) stopped = one_step(progress, steps);
    } catch (const AgreedError&) {
      trainer_->finish(*checkpoints_);  // all ranks are here: what is being written is of steps that were good
      throw;
    }
    progress.finish();
    finish_save();
    if (trainer_->steps_done() >= steps) {
      log_.line(fmt::format("trained {} steps; the run is in {}", steps, run_dir_));
    } else {
      log_.line(fmt::format("{}: stopped after step {} of {}; the same command with --run-dir {} goes on from {}",
                            StopRequest::reason(stopped), trainer_->steps_done(), steps, run_dir_, checkpoints_->newest()));
    }
  }

  /// What can be wrong with what was given is found before anything is made, and told once.
  void prepare() {
    agree(runtime_.control, [&] {
      const RunConfig file = load_config(options_.config, options_.settings);
      const RunConfig given = with_initial_checkpoint(file);
      // A checkpoint whose tokenizer is the default does not name one.
      tokenizer_named_ = file.data().has_tokenizer() || (given.data().has_tokenizer() && given.data().tokenizer() != "bytes");
      config_ = resolve(given, runtime_.size);
      check_trainable(config_);
      if (!config_.init().checkpoint().empty()) check_stored_sizes(find_checkpoint(config_.init().checkpoint()), config_);
    });
    start_watchdog(runtime_, config_.run().watchdog_seconds(), "");
    agree(runtime_.control, [&] {
      tokenizer_ = open_data_tokenizer(config_);
      const TokenFormat format = token_format(RunConfig::Format::Value_Name(config_.data().format()));
      data_ = std::make_shared<TokenStream>(config_.data().train(), format, config_.model().vocabulary());
      if (!config_.data().validation().empty()) {
        validation_data_ = std::make_shared<TokenStream>(config_.data().validation(), format, config_.model().vocabulary());
      }
    });
    if (!options_.only_steps() || config_.data().document_mask()) scan_data();  // the end of a document depends on the tokenizer
    agree(runtime_.control, [&] { match_text(); });
    if (options_.only_steps()) return;
    agree(runtime_.control, [&] {
      if (runtime_.rank != 0) return;
      run_dir_ = make_run_directory(options_.run_dir, options_.config);
      lock_ = std::make_unique<RunLock>(run_dir_);
    });
    run_dir_ = broadcast_text(runtime_.control, run_dir_);
    start_watchdog(runtime_, config_.run().watchdog_seconds(), run_dir_);
    std::vector<std::string> words;
    if (lock_ && !lock_->warning().empty()) words.push_back(lock_->warning());
    if (options_.resume == "auto") {
      from_ = newest_intact_checkpoint(runtime_.control, run_dir_ + "/checkpoints", words);
    }
    agree(runtime_.control, [&] {
      if (runtime_.rank != 0 || options_.resume == "auto" || options_.resume == "never") return;
      std::string note;
      from_ = find_checkpoint(options_.resume, &note);
      if (!note.empty()) words.push_back(note);
      check_input(path_exists(from_ + "/state.json"), "", from_,
                  " has a model but no state.json to go on from: start from its weights with init.checkpoint");
      const std::string damage = damage_of(from_, read_state(from_), true);
      check_input(damage.empty(), "", from_, " is damaged: ", damage, "; --resume auto takes the newest one that is whole");
    });
    from_ = broadcast_text(runtime_.control, from_);
    for (const std::string& line : words) log_.line(line);
  }

  /// Checks every token id of the data against the vocabulary; what an earlier start of the run found is read from its directory.
  void scan_data() {
    if (runtime_.rank == 0 && !options_.run_dir.empty()) scans_ = ScanCache(options_.run_dir);
    ScanProgress progress(log_);
    train_scan_ = scan_on_ranks(runtime_, *data_, scans_, std::ref(progress));
    if (validation_data_) validation_scan_ = scan_on_ranks(runtime_, *validation_data_, scans_, std::ref(progress));
    agree(runtime_.control, [&] {
      check_vocabulary(*data_, train_scan_, config_.model().vocabulary());
      if (validation_data_) check_vocabulary(*validation_data_, validation_scan_, config_.model().vocabulary());
    });
  }

  /// Compares the tokenizer with the data, and resolves which id ends a text.
  void match_text() {
    std::vector<LargestId> largest = {{data_.get(), train_scan_.largest, train_scan_.largest_at}};
    if (validation_data_) largest.push_back({validation_data_.get(), validation_scan_.largest, validation_scan_.largest_at});
    tokenizer_note_ = match_tokenizer(config_, tokenizer_, tokenizer_named_, largest);
    end_of_text_ = static_cast<std::int32_t>(config_.data().has_end_of_text() ? config_.data().end_of_text() : -1);
  }

  /// The token before the first one of a text; -1: none.
  std::int32_t start_token() const {
    return config_.model().has_start_token() ? static_cast<std::int32_t>(config_.model().start_token()) : end_of_text_;
  }

  /// Whether the checkpoint to go on from has all steps already: then nothing is written, and this is said.
  bool finished() {
    if (from_.empty()) return false;
    Index done = 0;
    agree(runtime_.control, [&] { done = read_state(from_).step(); });
    const Index steps = config_.run().steps();
    if (done < steps) return false;
    log_.line(fmt::format("nothing to do: {} has {} steps done and run.steps is {}; raise run.steps to go on", from_, done, steps));
    return true;
  }

  void set_up() {
    threads_ = choose_threads(runtime_, config_.run().threads());
    config_.mutable_run()->set_device(choose_device(runtime_, config_.run().device()));
    automatic_ = config_.run().precision() == RunConfig::Precision::auto_;
    compute_ = choose_precision(runtime_, config_.run().precision());
    config_.mutable_run()->set_precision(compute_ == DType::bf16 ? RunConfig::Precision::bf16 : RunConfig::Precision::f32);
    config_.mutable_run()->set_threads(threads_);
    hosts_ = gather_texts(runtime_.control, host_name());
    cores_ = gather_texts(runtime_.control, allowed_cores());
    mesh_ = runtime_.make_mesh(config_.mesh());
    invariant_ = ops::rows_are_invariant(runtime_.stream(), compute_);  // and the library's code is in memory now
    resident_at_start_ = resident_bytes();
    check_memory(runtime_, costs_of(config_), config_, compute_, true);
    agree(runtime_.control, [&] {  // all ranks reject a configuration that does not fit the data
      if (!options_.probe.empty()) probe_ = std::make_unique<Probe>(options_.probe, *mesh_);
      trainer_ = std::make_unique<Trainer>(runtime_, *mesh_, probe_ ? probe_->config(config_) : config_, compute_, data_, end_of_text_,
                                           probe_ ? probe_->hooks() : TrainHooks());
      costs_ = trainer_->model().transformer->costs();
    });
    agree(runtime_.control, [&] {
      if (!validation_data_) return;
      const Index sequences = std::max<Index>(1, config_.data().global_batch() / config_.data().accumulate() / mesh_->size());
      validation_ = std::make_unique<Validation>(validation_data_, config_.data().length(), config_.data().validation_windows(), sequences,
                                                 start_token(), end_of_text_, config_.data().document_mask(), mesh_->batch_shard(),
                                                 mesh_->batch_shards());
    });
  }

  /// The first lines of log.txt.
  void describe() {
    RunFacts facts;
    facts.mpi = MpiRuntime::launched() ? "Open MPI" : "none (a single process)";
    facts.processor = processor_name();
    facts.device = runtime_.gpu ? gpu_name(runtime_.gpu->device()) : "the processor";
    facts.precision = compute_ == DType::bf16 ? "bf16" : "f32";
    if (automatic_)
      facts.precision += compute_ == DType::bf16 ? " (auto: " + facts.device + " has it in hardware)" : " (auto: no bf16 in hardware)";
    facts.layout = fmt::format("{} rank{}: expert {} x data {}", mesh_->size(), mesh_->size() == 1 ? "" : "s", mesh_->shape().expert,
                               mesh_->shape().data);
    facts.threads = threads_;
    facts.hosts = hosts_;
    facts.cores = cores_;
    facts.command = options_.command;
    log_.file_line(environment_block(facts));
    log_.line(fmt::format("{}, {}, {}, {} thread{} a rank", facts.layout, facts.precision, runtime_.gpu ? facts.device : facts.processor,
                          threads_, threads_ == 1 ? "" : "s"));
    log_.line(model_summary(costs_, config_));
    if (!tokenizer_note_.empty()) log_.line(tokenizer_note_);
    if (trainer_->model().sees_later_tokens) {
      log_.line("training sees later tokens: what becomes of a token depends on some after it; validation and generation are without that");
    }
    if (config_.model().experts() > 1 && config_.model().top_k() == 1 && config_.model().router().normalize()) {
      log_.line("model.router.normalize with model.top_k 1 makes every router weight 1: the router learns from its losses alone");
    }
    if (!invariant_) {
      log_.line("this device's matrix products change with the rows beside a row: other layouts agree to rounding, not bit by bit");
    }
  }

  /// Everything that can still be rejected: the weights, and what each checkpoint repeats of the configuration and the tokenizer.
  void load() {
    std::vector<std::string> notices;
    agree(runtime_.control, [&] {
      std::string source = from_;
      if (!from_.empty()) {
        trainer_->resume(from_);
      } else if (!config_.init().checkpoint().empty()) {
        std::string note;
        source = find_checkpoint(config_.init().checkpoint(), &note);
        trainer_->start_from(source);
        notices = directory_notices(source);
        if (!note.empty()) notices.push_back(note);
      }
      const bool wide = config_.checkpoint().weights() == RunConfig::Weights::f32;
      if (runtime_.rank == 0) texts_ = checkpoint_texts(config_, wide ? DType::f32 : compute_, tokenizer_.get(), source);
    });
    for (const std::string& line : notices) log_.line(line);
  }

  /// The run directory becomes this run's.
  void start() {
    const std::string folder = run_dir_ + "/checkpoints";
    std::vector<std::string> lines;
    agree(runtime_.control, [&] {
      if (runtime_.rank != 0) return;
      if (options_.resume == "never") {
        const std::string aside = set_earlier_run_aside(run_dir_);
        if (!aside.empty()) lines.push_back("the earlier run in " + run_dir_ + " is now in " + aside);
      }
      log_.open(run_dir_);
    });
    for (const std::string& line : lines) log_.line(line);
    describe();
    agree(runtime_.control, [&] {
      if (runtime_.rank != 0) return;
      lines = leave_later_checkpoints(folder, trainer_->steps_done());
      forget_metrics_after(run_dir_, trainer_->steps_done());
      AppendFile(run_dir_ + "/config.textproto.tmp").write(to_text(config_));
      rename_file(run_dir_ + "/config.textproto.tmp", run_dir_ + "/config.textproto");
      scans_.write(run_dir_);
      metrics_ = std::make_unique<MetricsLog>(run_dir_);
      events_ = std::make_unique<TensorBoardWriter>(run_dir_);
      events_->start_session(trainer_->steps_done() + 1);
    });
    if (!from_.empty()) log_.line(fmt::format("goes on from {} at step {}", from_, trainer_->steps_done()));
    for (const std::string& line : lines) log_.line(line);
    CheckpointWriter::Settings settings;
    settings.folder = folder;
    settings.keep = config_.checkpoint().keep();
    settings.keep_every = config_.checkpoint().keep_every();
    settings.wide = config_.checkpoint().weights() == RunConfig::Weights::f32;
    settings.background = config_.checkpoint().async();
    settings.names = names_of_model(config_);
    settings.texts = texts_;
    checkpoints_ = std::make_unique<CheckpointWriter>(settings);
  }

  /// Returns why to stop after this step, StopRequest's number, or 0.
  int one_step(Progress& progress, Index steps) {
    const StepReport report = trainer_->step();
    if (!report.skipped.empty())
      log_.line(fmt::format("step {}: {}; this update is skipped, {} so far", report.step, report.skipped, report.skipped_steps));
    StepMetrics metrics = step_metrics(runtime_, config_, costs_.training_flops_per_token(config_.data().length()), report);
    const bool last = report.step == steps;
    if (validation_ && (last || (config_.run().validate_every() > 0 && report.step % config_.run().validate_every() == 0))) {
      const Evaluation evaluation = trainer_->validate(*validation_, tokenizer_.get());
      metrics.set_validation_loss(evaluation.loss());
      const std::optional<double> bits = evaluation.bits_per_byte();
      if (bits) metrics.set_bits_per_byte(*bits);
      log_.line(fmt::format("step {}: validation loss {:.4f}{}", report.step, evaluation.loss(),
                            bits ? fmt::format(", {:.4f} bits per byte", *bits) : ""));
    }
    if (runtime_.rank == 0) {
      metrics_->append(metrics);
      events_->write(report.step, scalars_of(metrics));
    }
    progress.step(report.step, report.loss, metrics.tokens_per_second(), metrics.step_seconds());
    if (!memory_shown_) {
      log_.line(memory_table(costs_, config_, compute_, peak_memory_bytes(runtime_) - (runtime_.gpu ? 0 : resident_at_start_)));
      memory_shown_ = true;
    }
    const EndOfStep signals = exchange_signals();
    if (signals.written) finish_save();
    if (last || signals.stop != 0 || (config_.checkpoint().every() > 0 && report.step % config_.checkpoint().every() == 0)) {
      finish_save();
      trainer_->save(*checkpoints_);
    }
    return signals.stop;
  }

  /// Values that ranks exchange at the end of a step.
  struct EndOfStep {
    int stop = 0;          // the largest stop request of any rank
    bool written = false;  // whether all ranks have written their files of a checkpoint that is not committed
  };
  EndOfStep exchange_signals() {
    const bool waiting = checkpoints_->pending() && !checkpoints_->written();
    const Tensor largest = Tensor::of<std::int64_t>(runtime_.host, {2}, std::vector<std::int64_t>{stop_.pending(), waiting ? 1 : 0});
    runtime_.control.all_reduce(runtime_.host, {kEndOfStep}, largest, Reduce::max, When::now).wait(runtime_.host);
    return {static_cast<int>(largest.values<std::int64_t>()[0]), checkpoints_->pending() && largest.values<std::int64_t>()[1] == 0};
  }

  /// Waits for a checkpoint that is being written, and notes each once.
  void finish_save() {
    trainer_->finish(*checkpoints_);
    if (checkpoints_->newest() == noted_) return;
    noted_ = checkpoints_->newest();
    log_.file_line("checkpoint " + noted_);
  }

  /// Times some steps, writing nothing; the first ones warm up.
  void time_steps() {
    const double startup = seconds_between(started_, Clock::now());
    constexpr Index kWarmUp = 10;  // each new number of an expert's rows costs a preparation once
    std::vector<double> seconds;
    for (Index i = 0; i < options_.time_steps + kWarmUp; ++i) {
      const StepReport report = trainer_->step();
      const StepMetrics metrics = step_metrics(runtime_, config_, costs_.training_flops_per_token(config_.data().length()), report);
      if (i >= kWarmUp) seconds.push_back(metrics.step_seconds());
    }
    if (runtime_.rank != 0) return;
    double total = 0;
    for (const double each : seconds) total += each;
    const double mean = total / static_cast<double>(seconds.size());
    const auto tokens = static_cast<double>(config_.data().global_batch() * config_.data().length());
    const nlohmann::ordered_json object = {{"seconds_per_step", mean},
                                           {"tokens_per_second", tokens / mean},
                                           {"startup_seconds", startup},
                                           {"steps", seconds.size()},
                                           {"precision", std::string(name_of(compute_))}};
    std::cout << json_text(object) << std::endl;
  }

  /// Trains from the first step to the last, writing only what verify-layout compares.
  void probe_steps() {
    agree(runtime_.control, [&] {
      if (!config_.init().checkpoint().empty()) trainer_->start_from(find_checkpoint(config_.init().checkpoint()));
    });
    while (trainer_->steps_done() < config_.run().steps()) {
      trainer_->step();
      probe_->stepped(trainer_->model());
    }
    probe_->finish();
  }

  const Clock::time_point started_ = Clock::now();
  RankRuntime& runtime_;
  const TrainOptions& options_;
  StopRequest& stop_;
  RunConfig config_;
  std::unique_ptr<const Tokenizer> tokenizer_;  // null with data.tokenizer none
  bool tokenizer_named_ = false;                // data.tokenizer is given, not the default
  std::string tokenizer_note_;                  // what became of the default
  std::int32_t end_of_text_ = -1;               // -1: none
  std::shared_ptr<TokenStream> data_, validation_data_;
  ScanCache scans_;                         // of rank 0
  TokenScan train_scan_, validation_scan_;  // smallest and largest ids; equal on all ranks
  std::unique_ptr<Validation> validation_;
  std::string run_dir_;
  std::unique_ptr<RunLock> lock_;  // of rank 0
  std::string from_;               // the checkpoint to go on from, or empty
  int threads_ = 1;
  DType compute_ = DType::f32;
  bool automatic_ = false;                  // whether the precision was chosen by the device
  bool invariant_ = false;                  // whether a row's products do not depend on the rows beside it
  std::vector<std::string> hosts_, cores_;  // of every rank
  double resident_at_start_ = 0;
  std::unique_ptr<Mesh> mesh_;
  std::unique_ptr<Probe> probe_;  // before the trainer, which uses it
  std::unique_ptr<Trainer> trainer_;
  ModelCosts costs_;
  std::map<std::string, std::string> texts_;  // the small files of a checkpoint, by name; of rank 0
  std::unique_ptr<CheckpointWriter> checkpoints_;
  RunLog log_;
  std::unique_ptr<MetricsLog> metrics_;
  std::unique_ptr<TensorBoardWriter> events_;
  std::string noted_;  // the last checkpoint that log.txt tells of
  bool memory_shown_ = false;
};

}  // namespace

void run_training(RankRuntime& runtime, const TrainOptions& options, StopRequest& stop) { Run(runtime, options, stop).train(); }

}  // namespace yard
