#include <fmt/format.h>

#include <numeric>

#include "core/ops/routing.h"
#include "core/random.h"
#include "launch/bench/bench.h"
#include "launch/builder.h"

namespace yard::bench {
namespace {

Tensor normal_rows(Stream& stream, Shape shape, DType dtype, std::uint64_t key) {
  const Tensor tensor(stream, shape, dtype);
  const Random random(key);
  with_float_type(dtype, [&](auto type) {
    auto values = tensor.values<decltype(type)>();
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = random.normal(i);
  });
  return tensor;
}

}  // namespace

void layer(RankRuntime& runtime, const Options& options, const RunConfig& config) {
  const RunConfig::Model& described = config.model();
  const int threads = choose_threads(runtime, options.threads);
  const DType dtype = choose_precision(runtime, config.run().precision());
  Stream& stream = runtime.stream();
  const auto made = runtime.make_mesh(config.mesh());
  Mesh& mesh = *made;
  Model model;
  model.reports = std::make_unique<RoutingReports>();
  model.totals = std::make_unique<RoutingTotals>(stream, 1, described.experts());
  const std::unique_ptr<Module> moe = build_moe_layer(config, mesh, stream, 0, model);
  model.reports->bind(Tensor::zeros(stream, {model.reports->size()}, DType::f64));
  ParameterStore::Settings settings;
  settings.compute = dtype;
  ParameterStore store(
      stream, [&](const auto& see) { moe->visit([&](Parameter& parameter) { see(0, parameter); }); }, settings);
  store.initialise(stream, config.init().seed());
  store.zero_gradients(stream);

  Tokens tokens;
  tokens.length = config.data().length();
  tokens.sequences = config.data().global_batch() / mesh.size();
  tokens.first_sequence = tokens.sequences * mesh.rank();
  tokens.sequences_everywhere = config.data().global_batch();
  tokens.ids = Tensor::zeros(stream, {tokens.rows()}, DType::i32);
  tokens.positions = Tensor::zeros(stream, {tokens.rows()}, DType::i32);
  tokens.targets = tokens.ids;
  const Tensor x = normal_rows(stream, {tokens.rows(), described.width()}, dtype, 1 + static_cast<std::uint64_t>(mesh.rank()));
  const Tensor dy = normal_rows(stream, {tokens.rows(), described.width()}, dtype, 1001 + static_cast<std::uint64_t>(mesh.rank()));

  Result result;
  result.name = "layer forward + backward";
  result.seconds = time_runs(runtime, options, [&] {
    store.changed();  // a step lays its weights out anew
    model.totals->begin_step(stream);
    model.totals->begin_micro(stream);
    Context context{stream, runtime.profiler, tokens};
    context.totals = model.totals.get();
    context.poll = [&] { mesh.world().progress(); };
    Tape tape;
    (void)moe->forward(context, x, tape);
    mesh.world().all_reduce(stream, {"routing.counts"}, model.totals->all(), Reduce::sum, When::now).wait(stream);
    model.totals->end_micro(stream);
    (void)moe->backward(context, dy, tape);
  });
  // The products of the rows that this rank's experts got, in the last run as in every other.
  const auto counts = model.totals->step().row_range(0, 1).values<std::int64_t>();
  const Index local = described.experts() / mesh.along(Axis::expert).size();
  std::vector<Index> rows;
  for (Index e = 0; e < local; ++e) {
    const std::int64_t all = counts[static_cast<std::size_t>(mesh.coordinate(Axis::expert) * local + e)];
    rows.push_back(all / mesh.along(Axis::data).size());
  }
  std::vector<ops::host::FloorProduct> products;
  std::vector<ops::host::FloorProduct> in_f32;
  moe->visit_costs([&](const Cost& cost) {
    for (const MatmulCost& matmul : cost.matmuls)
      add_training_products(matmul.f32 ? in_f32 : products, matmul, rows_of(cost, tokens.rows(), rows));
  });
  for (const auto* list : {&products, &in_f32}) {
    for (const auto& product : *list) result.flops += product.flops();
  }
  result.floor = common_floor(runtime, options, products, dtype);
  if (!in_f32.empty()) result.floor.seconds += common_floor(runtime, options, in_f32, DType::f32).seconds;
  if (mesh.rank() != 0) return;
  report(options, {result},
         fmt::format("{} tokens a rank, width {}, {} experts of {}, top-{}, {}, {} thread{} a rank, {} rank{}", tokens.rows(),
                     described.width(), described.experts(), described.hidden(), described.top_k(), name_of(dtype), threads,
                     threads == 1 ? "" : "s", mesh.size(), mesh.size() == 1 ? "" : "s"),
         dtype, threads, mesh.size());
}

}  // namespace yard::bench
