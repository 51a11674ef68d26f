#include "launch/trainer.h"

#include <cmath>

#include "comm/agree.h"
#include "core/ops/elementwise.h"
#include "core/ops/routing.h"
#include "launch/schedule.h"

namespace yard {
namespace {

LoaderOptions loader_options(const RunConfig& config, std::int32_t end_of_text) {
  LoaderOptions options;
  options.length = config.data().length();
  options.global_batch = config.data().global_batch();
  options.accumulate = config.data().accumulate();
  options.order = config.data().order() == RunConfig::Order::sequential ? Order::sequential : Order::shuffled;
  options.seed = config.data().seed();
  options.document_mask = config.data().document_mask();
  options.end_of_text = end_of_text;
  return options;
}

ShardedAdamW::Settings optimizer_settings(const RunConfig& config) {
  const auto& optimizer = config.optimizer();
  ShardedAdamW::Settings settings;
  settings.beta1 = static_cast<float>(optimizer.beta1());
  settings.beta2 = static_cast<float>(optimizer.beta2());
  settings.epsilon = static_cast<float>(optimizer.epsilon());
  settings.decay = static_cast<float>(optimizer.decay());
  settings.router_scale = static_cast<float>(optimizer.scale().router());
  settings.expert_scale = static_cast<float>(optimizer.scale().expert());
  settings.embedding_scale = static_cast<float>(optimizer.scale().embedding());
  return settings;
}

}  // namespace

Trainer::Trainer(RankRuntime& runtime, Mesh& mesh, const RunConfig& config, DType compute, std::shared_ptr<const TokenStream> data,
                 std::int32_t end_of_text, TrainHooks hooks, const RouterTable& routers)
    : runtime_(runtime), mesh_(mesh), config_(config), hooks_(std::move(hooks)) {
  model_ = build_model(config_, mesh_, runtime_.stream, compute, routers);
  model_.allocate(runtime_.stream, mesh_, true);
  model_.parameters->initialise(runtime_.stream, config_.init().seed());
  gradients_ = std::make_unique<GradientReducer>(*model_.parameters, mesh_);
  optimizer_ = std::make_unique<ShardedAdamW>(runtime_.stream, *model_.parameters, mesh_, *gradients_, optimizer_settings(config_),
                                              config_.init().seed());
  loader_ = std::make_unique<Loader>(std::move(data), loader_options(config_, end_of_text), mesh_.batch_shard(), mesh_.batch_shards());
  step_sums_ = Tensor(runtime_.stream, {1 + 2 * static_cast<Index>(model_.reports.size())}, DType::f64);
  state_.mesh = mesh_.shape();
  state_.precision = name_of(compute);
}

StepReport Trainer::step() {
  const auto start = Clock::now();
  Stream& stream = runtime_.stream;
  StepReport report;
  report.step = state_.step + 1;
  report.learning_rate = learning_rate(config_, state_.step);

  model_.parameters->zero_gradients(stream);
  model_.totals->begin_step(stream);
  ops::fill(stream, step_sums_, 0);
  const Index targets = loader_->targets(state_.step);  // of the whole step, all ranks: the only divisor of the loss
  for (Index micro = 0; micro < config_.data().accumulate(); ++micro) micro_step(micro, 1.0 / static_cast<double>(targets));

  Tokens none;
  Context context{stream, runtime_.profiler, none};
  context.seed = config_.run().seed();
  context.step = state_.step;
  gradients_->finish(context);
  report.norms = gradients_->norms(context);
  sum_reports(report);
  if (hooks_.gradients) hooks_.gradients(report, *model_.parameters, *gradients_);
  check_finite(report);

  const double clip = config_.optimizer().clip();
  const double factor = clip > 0 ? std::min(1.0, clip / (report.norms.all + 1e-6)) : 1.0;
  optimizer_->step(context, {static_cast<float>(report.learning_rate), state_.step + 1 - state_.skipped, static_cast<float>(factor)});
  model_.transformer->after_step(context, false);

  ++state_.step;
  state_.consumed = loader_->first_sequence(state_.step);
  state_.tokens += config_.data().global_batch() * config_.data().length();
  report.tokens = state_.tokens;
  report.seconds = seconds_between(start, Clock::now());
  report.tokens_per_second = static_cast<double>(config_.data().global_batch() * config_.data().length()) / report.seconds;
  report.profile = runtime_.profiler.take();
  return report;
}

void Trainer::micro_step(Index micro, double scale) {
  Stream& stream = runtime_.stream;
  Tokens tokens;
  {
    const Span span(runtime_.profiler, "data");
    tokens = loader_->batch(stream, state_.step, micro);
  }
  Context context{stream, runtime_.profiler, tokens};
  context.seed = config_.run().seed();
  context.step = state_.step;
  context.micro = micro;
  context.micros = config_.data().accumulate();
  context.totals = model_.totals.get();
  context.log = hooks_.log;
  context.poll = [this] { mesh_.world().progress(); };
  model_.totals->begin_micro(stream);

  Tape tape;
  const Tensor nats = model_.transformer->nats(context, static_cast<float>(scale), tape);
  step_sums_.values<double>()[0] += ops::sum(stream, nats).values<double>()[0] * scale;
  if (!model_.reports.empty()) {  // the counts of all layers in one collective; every router's backward reads them
    mesh_.world().all_reduce(stream, runtime_.profiler, {"routing.counts"}, model_.totals->micro(), Reduce::sum, When::now).wait(stream);
    model_.totals->end_micro(stream);
  }
  const bool by_sequence = config_.losses().scope() == RunConfig::Scope::sequence;
  for (std::size_t layer = 0; layer < model_.reports.size(); ++layer) {
    ops::fold_router_report(stream, model_.reports[layer]->sums, model_.totals->layer(static_cast<Index>(layer)), config_.model().top_k(),
                            tokens.length, tokens.sequences_everywhere, by_sequence,
                            step_sums_.row_range(1 + 2 * static_cast<Index>(layer), 2));
  }
  const bool last = micro + 1 == config_.data().accumulate();
  model_.transformer->backward(context, tape, [&](Index group) {
    if (last) gradients_->ready(context, group);
  });
  check(tape.empty(), "backward left activations behind");
}

/// Sums over ranks, in one collective: the loss, the auxiliary losses of each layer, what was dropped.
void Trainer::sum_reports(StepReport& report) {
  const auto layers = model_.reports.size();
  const Tensor sums = Tensor::zeros(runtime_.stream, {1 + 2 * static_cast<Index>(layers) + 8}, DType::f64);
  auto values = sums.values<double>();
  const auto mine = step_sums_.values<double>();
  std::copy(mine.begin(), mine.end(), values.begin());
  for (const auto& layer : model_.reports) {
    auto drops = layer->drops.values<std::int64_t>();
    for (std::size_t i = 0; i < 8; ++i) values[mine.size() + i] += static_cast<double>(drops[i]);
    std::fill(drops.begin(), drops.end(), 0);
  }
  mesh_.world().all_reduce(runtime_.stream, runtime_.profiler, {"metrics"}, sums, Reduce::sum, When::now).wait(runtime_.stream);
  report.loss = values[0];
  const double terms = static_cast<double>(layers) * static_cast<double>(config_.data().accumulate());
  for (std::size_t layer = 0; layer < layers; ++layer) {
    report.balance_loss += values[1 + 2 * layer] / terms;
    report.z_loss += values[2 + 2 * layer] / terms;
    const auto counts = model_.totals->step().row_range(static_cast<Index>(layer), 1).values<std::int64_t>();
    report.tokens_per_expert.emplace_back(counts.begin(), counts.end());
  }
  double dropped = 0;
  double seen = 0;
  for (std::size_t quarter = 0; quarter < 4; ++quarter) {
    dropped += values[mine.size() + quarter];
    seen += values[mine.size() + 4 + quarter];
  }
  if (seen > 0) {
    report.dropped_fraction = dropped / seen;
    for (std::size_t quarter = 0; quarter < 4; ++quarter) {
      report.dropped_by_quarter.push_back(values[mine.size() + quarter] / std::max(1.0, values[mine.size() + 4 + quarter]));
    }
  }
}

void Trainer::check_finite(const StepReport& report) const {
  if (std::isfinite(report.loss) && std::isfinite(report.norms.all)) return;
  const std::string what = std::isfinite(report.loss) ? "the gradient norm" : "the loss";
  throw AgreedError(what + " is not a finite number at step " + std::to_string(report.step) +
                        ": training stops, nothing was updated, and the last checkpoint stays; try a lower optimizer.peak_rate or more "
                        "optimizer.warmup_steps",
                    1, mesh_.rank() == 0);
}

Evaluation Trainer::validate(const Validation& data, const Tokenizer& tokenizer) {
  return evaluate(runtime_.stream, runtime_.profiler, mesh_, model_, data, tokenizer);
}

std::vector<State*> Trainer::states() {
  std::vector<State*> pointers;
  model_.transformer->visit_state([&](State& state) { pointers.push_back(&state); });
  return pointers;
}

std::string Trainer::save(CheckpointWriter& writer) {
  Tokens none;
  Context context{runtime_.stream, runtime_.profiler, none};
  return writer.save(context, mesh_, *model_.parameters, states(), *optimizer_, state_);
}

void Trainer::resume(const std::string& checkpoint) {
  const TrainingState from = load_state(checkpoint);
  check_input(from.precision == state_.precision, "the checkpoint ", checkpoint, " was trained in ", from.precision, ", this run is in ",
              state_.precision, "; set run.precision=", from.precision, ", or start from its weights with init.checkpoint");
  load_model(runtime_.stream, checkpoint, *model_.parameters, states(), nullptr);
  load_optimizer(runtime_.stream, checkpoint, mesh_, *optimizer_);
  state_ = from;
  loader_->resume(state_.step, state_.consumed);
}

void Trainer::start_from(const std::string& checkpoint) {
  load_model(runtime_.stream, checkpoint, *model_.parameters, states(), optimizer_.get());
}

}  // namespace yard
