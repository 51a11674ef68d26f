#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <map>

#include "core/random.h"
#include "launch/bench/bench.h"
#include "launch/trainer.h"

namespace yard::bench {
namespace {

using ops::host::Floor;
using ops::host::FloorProduct;

/// A part of a step as the table shows it: its phases in the profile, and the GEMMs whose reference time it is compared with.
struct Part {
  std::string name;
  std::vector<std::string> phases;
  std::vector<FloorProduct> products = {};
  std::vector<FloorProduct> in_f32 = {};  // in f32 regardless of the run's precision
  // The number of sequences that pass attention, by number of heads and head width, summed over layers.
  std::map<std::pair<Index, Index>, double> sequences = {};
};

/// Attention's GEMMs over one sequence, in blocks of 64 rows up to the diagonal: scores and values, and the four of their gradients.
std::vector<FloorProduct> attention_products(const ScoresCost& scores, Index length) {
  constexpr Index kBlock = 64;
  std::vector<FloorProduct> products;
  for (Index head = 0; head < scores.heads; ++head) {
    for (Index first = 0; first < length; first += kBlock) {
      const Index rows = std::min(kBlock, length - first);
      const Index seen = first + rows;
      for (int i = 0; i < 2; ++i) {
        products.push_back({rows, seen, scores.width});  // scores; the gradient of the softmax's output
        products.push_back({rows, scores.width, seen});  // values; the gradient of queries
        products.push_back({seen, scores.width, rows});  // the gradients of keys and of values
      }
    }
  }
  return products;
}

/// Rows of this rank's experts per micro-batch, from the last step's counts.
std::vector<Index> local_rows(const Mesh& mesh, const RunConfig& config, const std::vector<Index>& counts, int expert_ranks) {
  const auto local = static_cast<Index>(counts.size()) / expert_ranks;
  const Index first = mesh.coordinate(Axis::expert) * local;
  const Index share = config.mesh().data() * config.data().accumulate();
  std::vector<Index> rows;
  for (Index e = first; e < first + local; ++e) rows.push_back(counts[static_cast<std::size_t>(e)] / share);
  return rows;
}

std::vector<Part> parts_of(const Mesh& mesh, const RunConfig& config, const ModelCosts& costs, const StepReport& report) {
  const Index length = config.data().length();
  const Index n = config.data().global_batch() * length / config.data().accumulate() / mesh.size();
  const Index sequences = n / length;
  Part attention{"attention", {"attention.forward", "attention.backward"}};
  Part experts{"expert products", {"experts.forward", "experts.backward"}};
  Part router{"router", {"router.forward", "router.backward", "exchange.plan"}};
  Part output{"cross-entropy", {"cross_entropy"}};
  std::size_t moe = 0;
  for (const auto& [group, cost] : costs.entries()) {
    std::vector<Index> routed;
    if (cost.part == ModelPart::experts) routed = local_rows(mesh, config, report.tokens_per_expert[moe++], mesh.shape().expert);
    Part& part = cost.part == ModelPart::attention ? attention
                 : cost.part == ModelPart::router  ? router
                 : cost.part == ModelPart::output  ? output
                                                   : experts;
    for (const MatmulCost& matmul : cost.matmuls)
      add_training_products(matmul.f32 ? part.in_f32 : part.products, matmul, rows_of(cost, n, routed));
    if (cost.scores.heads == 0) continue;
    part.sequences[{cost.scores.heads, cost.scores.width}] += static_cast<double>(sequences);
  }
  return {attention,
          {"norms", {"norm.forward", "norm.backward"}},
          router,
          {"permute", {"exchange.gather", "exchange.return", "exchange.combine"}},
          experts,
          {"embedding", {"embedding.forward", "embedding.backward"}},
          output,
          {"gradient norm", {"gradient.norm"}},
          {"optimizer", {"optimizer"}},
          {"data", {"data"}}};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

}  // namespace

void step(RankRuntime& runtime, const Options& options, const RunConfig& config) {
  const int threads = choose_threads(runtime, options.threads);
  const DType dtype = choose_precision(runtime, config.run().precision());
  const auto made = runtime.make_mesh(config.mesh());
  Mesh& mesh = *made;
  std::vector<std::int32_t> ids(1 << 20);
  const Random random(1);
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::int32_t>(random.bits(i) % static_cast<std::uint64_t>(config.model().vocabulary()));
  Trainer trainer(runtime, mesh, config, dtype, std::make_shared<TokenStream>(std::move(ids), "random tokens"), -1);

  std::map<std::string, std::vector<double>> phases;
  std::map<std::string, std::vector<double>> transfers;  // exposed seconds of each kind
  StepReport last;
  Index run = -options.warmup;
  Result whole;
  whole.name = "step";
  whole.seconds = time_runs(runtime, options, [&] {
    last = trainer.step();
    if (run++ < 0) return;
    for (const auto& [name, seconds] : last.phases) phases[name].push_back(seconds);
    double exposed = 0;
    double sums = 0;
    for (const CollectiveRecord& record : last.collectives) {
      const bool sharded = record.label.kind.starts_with("gradients.") || record.label.kind.starts_with("parameters.");
      (sharded ? sums : exposed) += record.exposed_seconds();
    }
    transfers["all-to-all and counts"].push_back(exposed);
    transfers["gradient sums"].push_back(sums);
  });

  std::vector<Result> results;
  double accounted = 0;
  for (const Part& part : parts_of(mesh, config, trainer.model().transformer->costs(), last)) {
    Result result;
    result.name = part.name;
    double seconds = 0;
    for (const std::string& phase : part.phases) seconds += median(phases[phase]);
    result.seconds = {seconds};
    const auto micros = static_cast<double>(config.data().accumulate());
    const auto add = [&](const std::vector<FloorProduct>& list, DType precision, double times) {
      if (list.empty()) return;
      for (const auto& product : list) result.flops += product.flops() * times * micros;
      Floor floor = common_floor(runtime, options, list, precision);
      floor.seconds = result.floor.seconds + floor.seconds * times * micros;
      if (result.floor.seconds > 0) floor.library = result.floor.library;
      result.floor = floor;
    };
    add(part.products, dtype, 1);
    add(part.in_f32, DType::f32, 1);
    for (const auto& [heads, sequences] : part.sequences)
      add(attention_products({heads.first, heads.second}, config.data().length()), dtype, sequences);
    whole.flops += result.flops;
    whole.floor.seconds += result.floor.seconds;
    accounted += seconds;
    results.push_back(std::move(result));
  }
  whole.floor.library = "the sum of its parts";
  for (const auto& [name, seconds] : transfers) {
    Result result;
    result.name = name;
    result.seconds = {median(seconds)};
    accounted += result.median();
    results.push_back(std::move(result));
  }
  Result rest;
  rest.name = "everything else";
  rest.seconds = {std::max(0.0, whole.median() - accounted)};
  results.push_back(std::move(rest));
  results.push_back(whole);
  if (mesh.rank() != 0) return;
  for (Result& result : results) result.share = result.median() / whole.median();
  const auto tokens = static_cast<double>(config.data().global_batch() * config.data().length());
  report(options, results,
         fmt::format("a step of {:.0f} tokens, {}, {} thread{} a rank, {} rank{}: {:.0f} tokens/s", tokens, name_of(dtype), threads,
                     threads == 1 ? "" : "s", mesh.size(), mesh.size() == 1 ? "" : "s", tokens / whole.median()),
         dtype, threads, mesh.size());
}

}  // namespace yard::bench
