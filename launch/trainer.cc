#include "launch/trainer.h"

#include <fmt/format.h>

#include <cmath>

#include "comm/agree.h"
#include "comm/text.h"
#include "core/ops/elementwise.h"
#include "core/ops/routing.h"
#include "launch/config_reader.h"
#include "launch/schedule.h"
#include "parallel/checkpoint/contents.h"
#include "parallel/checkpoint/reader.h"

namespace yard {
namespace {

YARD_PHASE kData{"data"};
YARD_COLLECTIVE kRoutingCounts{"routing.counts"};
YARD_COLLECTIVE kMetrics{"metrics"};

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

/// The first logical tensors, in the order of the model, of which a value is not finite; `last` sees the last one as backward's first.
struct BadValues {
  std::string first, last;
  void see(const std::string& name) {
    if (first.empty()) first = name;
    last = name;
  }
};

bool finite(Stream& stream, const Tensor& values) {
  return ops::all_finite(stream, values).to(stream, Device{}).values<std::int32_t>()[0] == 1;
}

}  // namespace

Trainer::Trainer(RankRuntime& runtime, Mesh& mesh, const RunConfig& config, DType compute, std::shared_ptr<const TokenStream> data,
                 std::int32_t end_of_text, TrainHooks hooks, const RouterTable& routers)
    : runtime_(runtime),
      mesh_(mesh),
      config_(config),
      hooks_(std::move(hooks)),
      guard_({config.guard().spike_sigma(), config.guard().max_skips()}, {}) {
  runtime_.log.start_reports();
  model_ = build_model(config_, mesh_, runtime_.stream(), compute, routers);
  model_.allocate(runtime_.stream(), mesh_, true);
  model_.parameters->initialise(runtime_.stream(), config_.init().seed());
  gradients_ = std::make_unique<GradientReducer>(*model_.parameters, mesh_);
  optimizer_ = std::make_unique<ShardedAdamW>(runtime_.stream(), *model_.parameters, mesh_, *gradients_, optimizer_settings(config_),
                                              config_.init().seed());
  loader_ = std::make_unique<Loader>(std::move(data), loader_options(config_, end_of_text), mesh_.batch_shard(), mesh_.batch_shards());
  step_sums_ = Tensor::zeros(runtime_.stream(), {1 + model_.reports->size()}, DType::f64);
  model_.reports->bind(step_sums_.row_range(1, model_.reports->size()));
  state_.mutable_mesh()->set_expert(mesh_.shape().expert);
  state_.mutable_mesh()->set_data(mesh_.shape().data);
  state_.set_precision(std::string(name_of(compute)));
  state_.set_seed(config_.run().seed());
  state_.set_config(to_text(config_));
}

StepReport Trainer::step() {
  const auto start = Clock::now();
  Stream& stream = runtime_.stream();
  StepReport report;
  report.step = state_.step() + 1;
  report.learning_rate = learning_rate(config_, state_.step());

  model_.parameters->zero_gradients(stream);
  model_.totals->begin_step(stream);
  stream.set(step_sums_.raw(), 0, step_sums_.bytes());
  const Index targets = loader_->targets(state_.step());  // of the whole step, all ranks: the only divisor of the loss
  for (Index micro = 0; micro < config_.data().accumulate(); ++micro) micro_step(micro, 1.0 / static_cast<double>(targets));

  Tokens none;
  Context context{stream, runtime_.profiler, none};
  context.seed = config_.run().seed();
  context.step = state_.step();
  context.totals = model_.totals.get();  // of the whole step: routers may read them in after_step
  gradients_->finish(context);
  report.norms = gradients_->norms(context);
  sum_reports(report);
  if (hooks_.gradients) hooks_.gradients(report, *model_.parameters, *gradients_);
  report.skipped = guard_.judge(report.loss, report.norms.all);
  if (guard_.exhausted()) give_up(report);
  if (report.skipped.empty()) {
    const double clip = config_.optimizer().clip();
    const double factor = clip > 0 ? std::min(1.0, clip / (report.norms.all + 1e-6)) : 1.0;
    const Index update = state_.step() + 1 - state_.skipped_steps();
    optimizer_->step(context, {static_cast<float>(report.learning_rate), update, static_cast<float>(factor)});
  } else {
    state_.set_skipped_steps(state_.skipped_steps() + 1);
  }
  model_.transformer->after_step(context, !report.skipped.empty());

  state_.set_step(state_.step() + 1);
  state_.set_sequences_consumed(loader_->first_sequence(state_.step()));
  state_.set_tokens(state_.tokens() + config_.data().global_batch() * config_.data().length());
  report.tokens = state_.tokens();
  report.skipped_steps = state_.skipped_steps();
  report.seconds = seconds_between(start, Clock::now());
  report.tokens_per_second = static_cast<double>(config_.data().global_batch() * config_.data().length()) / report.seconds;
  report.phases = runtime_.profiler.take();
  mesh_.world().progress();  // completes the records of this step
  report.collectives = runtime_.log.take_completed();
  return report;
}

void Trainer::micro_step(Index micro, double scale) {
  Stream& stream = runtime_.stream();
  Tokens tokens;
  {
    const Span span(runtime_.profiler, kData);
    tokens = loader_->batch(stream, state_.step(), micro);
  }
  Context context{stream, runtime_.profiler, tokens};
  context.seed = config_.run().seed();
  context.step = state_.step();
  context.micro = micro;
  context.micros = config_.data().accumulate();
  context.totals = model_.totals.get();
  context.log = hooks_.log;
  context.poll = [this] { mesh_.world().progress(); };
  model_.totals->begin_micro(stream);

  Tape tape;
  const Tensor nats = model_.transformer->nats(context, static_cast<float>(scale), tape);
  ops::add_sum(stream, nats, scale, step_sums_.row_range(0, 1));
  if (model_.reports->layers() > 0) {  // the counts of all layers in one collective; every router's backward reads them
    mesh_.world().all_reduce(stream, {kRoutingCounts}, model_.totals->all(), Reduce::sum, When::now).wait(stream);
    model_.totals->end_micro(stream);
  }
  const bool last = micro + 1 == config_.data().accumulate();
  model_.transformer->backward(context, tape, [&](Index group) {
    if (last) gradients_->ready(context, group);
  });
  check(tape.empty(), "backward left activations behind");
}

/// Sums over ranks, in one collective: the loss, and what routers report.
void Trainer::sum_reports(StepReport& report) {
  Stream& stream = runtime_.stream();
  const Tensor own = step_sums_.to(stream, Device{});
  const Tensor step_counts = model_.totals->step().to(stream, Device{});
  const Tensor sums(runtime_.host, own.shape(), DType::f64);
  const auto values = sums.values<double>();
  std::copy(own.values<double>().begin(), own.values<double>().end(), values.begin());
  model_.reports->keep_one_copy(values.subspan(1), runtime_.rank == 0);
  runtime_.control.all_reduce(runtime_.host, {kMetrics}, sums, Reduce::sum, When::now).wait(runtime_.host);
  report.loss = values[0];
  report.routing = model_.reports->summary(values.subspan(1), config_.data().accumulate());
  for (Index layer = 0; layer < model_.reports->layers(); ++layer) {
    const auto counts = step_counts.row_range(layer, 1).values<std::int64_t>();
    report.tokens_per_expert.emplace_back(counts.begin(), counts.end());
  }
}

/// Says where it began, as far as values tell: collective, on the way out only.
std::string Trainer::first_bad_values() {
  const auto find = [&](const std::function<Tensor(std::size_t buffer, const OwnPiece&)>& values) {
    BadValues bad;
    const auto& buffers = model_.parameters->buffers();
    for (std::size_t b = 0; b < buffers.size(); ++b) {
      const Index count = gradients_->share(b).elements();
      for (const OwnPiece& piece : pieces_of(buffers[b], static_cast<Index>(b), gradients_->first(b), count)) {
        if (!finite(runtime_.stream(), values(b, piece))) bad.see(fmt::format("{:06d} {}", buffers[b].group, piece.name));
      }
    }
    BadValues all;
    for (const std::string& each : gather_texts(runtime_.control, bad.first)) {
      if (!each.empty() && (all.first.empty() || each < all.first)) all.first = each;
    }
    for (const std::string& each : gather_texts(runtime_.control, bad.last)) all.last = std::max(all.last, each);
    if (!all.first.empty()) all = {all.first.substr(7), all.last.substr(7)};
    return all;
  };
  const BadValues weights =
      find([&](std::size_t b, const OwnPiece& piece) { return optimizer_->shares()[b].master.row_range(piece.in_share, piece.count); });
  if (!weights.first.empty()) return "; a weight itself is not finite, in " + weights.first;
  const BadValues gradients =
      find([&](std::size_t b, const OwnPiece& piece) { return gradients_->share(b).row_range(piece.in_share, piece.count); });
  if (gradients.first.empty()) return "; all gradients are finite";
  return "; gradients are not finite from " + gradients.first + " to " + gradients.last + ", where backward met them first";
}

void Trainer::give_up(const StepReport& report) {
  std::string sentence = report.skipped + " at step " + std::to_string(report.step);
  if (guard_.settings().max_skips > 0)
    sentence += fmt::format(", after {} skipped updates in a row, guard.max_skips", guard_.settings().max_skips);
  if (!std::isfinite(report.loss) || !std::isfinite(report.norms.all)) sentence += first_bad_values();
  throw AgreedError(sentence +
                        "; training stops, nothing was updated, and the last checkpoint stays: try a lower optimizer.peak_rate or more "
                        "optimizer.warmup_steps",
                    1, mesh_.rank() == 0);
}

Evaluation Trainer::validate(const Validation& data, const Tokenizer* tokenizer) {
  return evaluate(runtime_.stream(), runtime_.profiler, mesh_, model_, data, tokenizer);
}

std::vector<State*> Trainer::states() {
  std::vector<State*> pointers;
  model_.transformer->visit_state([&](State& state) { pointers.push_back(&state); });
  return pointers;
}

void Trainer::save(CheckpointWriter& writer) {
  const Tokens none;
  Context context = outside_of_steps(none);
  const auto recent = guard_.recent();
  state_.mutable_recent_norms()->Assign(recent.begin(), recent.end());
  state_.set_skipped_in_a_row(guard_.in_a_row());
  writer.save(context, mesh_, *model_.parameters, states(), *optimizer_, state_);
}

void Trainer::finish(CheckpointWriter& writer) {
  const Tokens none;
  Context context = outside_of_steps(none);
  writer.finish(context, mesh_);
}

void Trainer::resume(const std::string& checkpoint) {
  const CheckpointState from = read_state(checkpoint);
  const std::string damage = damage_of(checkpoint, from, false);
  check_input(damage.empty(), "the checkpoint ", checkpoint, " is damaged: ", damage);
  check_input(from.precision() == state_.precision(), "the checkpoint ", checkpoint, " was trained in ", from.precision(),
              ", this run is in ", state_.precision(), "; set run.precision=", from.precision(),
              ", or start from its weights with init.checkpoint");
  load_model(runtime_.stream(), checkpoint, *model_.parameters, states(), config_.model().experts(), config_.model().tied_output(),
             nullptr);
  load_optimizer(runtime_.stream(), checkpoint, from, *model_.parameters, mesh_, *optimizer_);
  state_.set_step(from.step());
  state_.set_tokens(from.tokens());
  state_.set_sequences_consumed(from.sequences_consumed());
  state_.set_skipped_steps(from.skipped_steps());
  guard_ = Guard(guard_.settings(), {from.recent_norms().begin(), from.recent_norms().end()}, from.skipped_in_a_row());
  loader_->resume(state_.step(), state_.sequences_consumed());
}

void Trainer::start_from(const std::string& checkpoint) {
  load_model(runtime_.stream(), checkpoint, *model_.parameters, states(), config_.model().experts(), config_.model().tied_output(),
             optimizer_.get());
}

}  // namespace yard
