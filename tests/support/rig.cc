#include "tests/support/rig.h"

#include "core/ops/elementwise.h"
#include "launch/config_reader.h"
#include "launch/config_rules.h"

namespace yard::test {

RunConfig config_of(const std::string& text) {
  RunConfig config = parse_config(text, "test");
  if (!config.run().has_precision()) config.mutable_run()->set_precision(RunConfig::Precision::f32);
  return config;
}

Tokens batch_of(const Tensor& ids, const Tensor& targets) {
  Tokens tokens;
  tokens.sequences = ids.shape()[0];
  tokens.length = ids.shape()[1];
  tokens.sequences_everywhere = tokens.sequences;
  const auto narrowed = [](const Tensor& from) {
    const Tensor to(cpu(), {from.elements()}, DType::i32);
    const auto values = to_f64(from);
    for (std::size_t i = 0; i < values.size(); ++i)
      to.values<std::int32_t>()[i] = values[i] < 0 ? -1 : static_cast<std::int32_t>(values[i]);
    return to;
  };
  tokens.ids = narrowed(ids);
  tokens.targets = narrowed(targets.defined() ? targets : ids);
  tokens.positions = Tensor(cpu(), {tokens.rows()}, DType::i32);
  for (Index i = 0; i < tokens.rows(); ++i) tokens.positions.data<std::int32_t>()[i] = static_cast<std::int32_t>(i % tokens.length);
  return tokens;
}

Index targets_of(const Tokens& tokens) {
  Index count = 0;
  for (const auto target : tokens.targets.values<std::int32_t>()) count += target >= 0 ? 1 : 0;
  return count;
}

Rig::Rig(const RunConfig& unresolved, DType compute, const RouterTable& routers) : config_(resolve(unresolved, 1, routers)) {
  mesh_ = rank_.runtime.make_mesh(config_.mesh());
  model_ = build_model(config_, *mesh_, rank_.runtime.stream(), compute, routers);
  model_.allocate(rank_.runtime.stream(), *mesh_, true);
  model_.parameters->initialise(rank_.runtime.stream(), config_.init().seed());
  model_.reports->bind(Tensor::zeros(rank_.runtime.stream(), {model_.reports->size()}, DType::f64));
}

Context Rig::context(const Tokens& tokens, Pass pass) {
  Context context{rank_.runtime.stream(), rank_.runtime.profiler, tokens, pass};
  context.seed = config_.run().seed();
  return context;
}

namespace {
std::map<std::string, Tensor> by_slices(ParameterStore& store, Tensor Parameter::*what) {
  std::map<std::string, Tensor> result;
  for (auto& buffer : store.buffers()) {
    for (auto& segment : buffer.segments) {
      for (const Slice& slice : segment.parameter->slices) {
        result[slice.name] = (segment.parameter->*what).row_range(slice.row, slice.rows);
      }
    }
  }
  return result;
}
}  // namespace

std::map<std::string, Tensor> Rig::values() { return by_slices(store(), &Parameter::value); }
std::map<std::string, Tensor> Rig::gradients() { return by_slices(store(), &Parameter::grad); }

void Rig::set(const std::string& name, const Tensor& value) {
  const auto all = values();
  const auto found = all.find(name);
  check(found != all.end(), "the model has no parameter ", name);
  check(found->second.elements() == value.elements(), "parameter ", name, " has ", found->second.shape(), ", not ", value.shape());
  ops::copy_into(rank_.runtime.stream(), value, found->second);
  store().changed();
}

Rig::Losses Rig::micro_step(const Tokens& tokens, double scale, Index micro, Index micros, Index step) {
  Stream& stream = rank_.runtime.stream();
  Context at = context(tokens);
  at.step = step;
  at.micro = micro;
  at.micros = micros;
  at.totals = model_.totals.get();
  model_.totals->begin_micro(stream);
  Tape tape;
  const Tensor nats = model_.transformer->nats(at, static_cast<float>(scale), tape);
  model_.totals->end_micro(stream);
  Losses losses;
  for (const double value : to_f64(nats)) losses.nats += value;
  losses.counts = to_f64(model_.totals->micro());
  stream.set(model_.reports->values().raw(), 0, model_.reports->values().bytes());
  model_.transformer->backward(at, tape, [](Index) {});
  losses.routing = model_.reports->summary(model_.reports->values().values<double>(), 1);
  for (const auto& layer : losses.routing.layers) {
    const auto value = [&](const char* name) { return layer.losses.contains(name) ? layer.losses.at(name) : 0; };
    losses.balance.push_back(value("balance"));
    losses.z.push_back(value("z"));
  }
  check(tape.empty(), "backward left activations behind");
  return losses;
}

Rig::Losses Rig::step(const Tokens& tokens) {
  store().zero_gradients(rank_.runtime.stream());
  const auto targets = static_cast<double>(targets_of(tokens));
  Losses losses = micro_step(tokens, 1 / targets);
  losses.nats /= targets;
  return losses;
}

Tensor Rig::logits(const Tokens& tokens, Pass pass) {
  Context at = context(tokens, pass);
  return model_.transformer->logits(at);
}

}  // namespace yard::test
