#include <fmt/format.h>

#include <cmath>
#include <numeric>
#include <set>
#include <tuple>

#include "core/ops/matmul.h"
#include "launch/bench/bench.h"
#include "launch/builder.h"

namespace yard::bench {
namespace {

using ops::host::FloorProduct;

/// Rows of each expert: even, or falling by a factor over the experts such that the first gets `spread` times the last.
std::vector<Index> rows_by_expert(Index rows, Index experts, double spread) {
  std::vector<double> shares;
  for (Index e = 0; e < experts; ++e)
    shares.push_back(std::pow(spread, -static_cast<double>(e) / static_cast<double>(std::max<Index>(1, experts - 1))));
  const double all = std::accumulate(shares.begin(), shares.end(), 0.0);
  std::vector<Index> counts;
  double filled = 0;
  Index given = 0;
  for (const double share : shares) {
    filled += share / all * static_cast<double>(rows);
    counts.push_back(static_cast<Index>(std::llround(filled)) - given);
    given += counts.back();
  }
  return counts;
}

/// One group of products, our way and the floor's, for the three directions.
void measure(RankRuntime& runtime, const Options& options, DType dtype, const std::string& name, const std::vector<Index>& rows, Index in,
             Index out, std::vector<Result>& results) {
  Stream& stream = runtime.stream();
  const Index all = std::accumulate(rows.begin(), rows.end(), Index{0});
  const auto groups = static_cast<Index>(rows.size());
  const Tensor x = Tensor::zeros(stream, {all, in}, dtype);
  const Tensor dy = Tensor::zeros(stream, {all, out}, dtype);
  const Tensor values = Tensor::zeros(stream, {groups * out, in}, dtype);
  const ops::Weights weights(values, groups);
  const Tensor gradient = Tensor::zeros(stream, {groups * out, in});
  std::vector<FloorProduct> forward;
  std::vector<FloorProduct> back;
  std::vector<FloorProduct> outer;
  for (const Index n : rows) {
    forward.push_back({n, out, in});
    back.push_back({n, in, out});
    outer.push_back({out, in, n});
  }
  const double flops = 2.0 * static_cast<double>(all) * static_cast<double>(in) * static_cast<double>(out);
  const auto add = [&](const char* direction, const std::vector<FloorProduct>& products, const std::function<void()>& body) {
    Result result;
    result.name = name + " " + direction;
    result.seconds = time_runs(runtime, options, body);
    result.flops = flops;
    result.floor = common_floor(runtime, options, products, dtype);
    results.push_back(std::move(result));
  };
  add("forward", forward, [&] { (void)ops::matmul(stream, x, weights, rows, dtype); });
  add("input gradient", back, [&] { (void)ops::matmul_backward_input(stream, dy, weights, rows, dtype); });
  add("weight gradient", outer, [&] { ops::matmul_backward_weight(stream, dy, x, rows, gradient); });
}

}  // namespace

void gemm(RankRuntime& runtime, const Options& options, const RunConfig& config, double spread) {
  const ModelCosts costs = costs_of(config);
  const int threads = choose_threads(runtime, options.threads);
  const DType dtype = choose_precision(runtime, config.run().precision());
  const Index n = config.data().global_batch() * config.data().length() / config.data().accumulate() / runtime.size;
  std::vector<Result> results;
  std::set<std::tuple<ModelPart, std::string_view, Index, Index>> measured;
  for (const auto& [group, cost] : costs.entries()) {
    for (const MatmulCost& matmul : cost.matmuls) {
      if (matmul.f32 || !measured.emplace(cost.part, matmul.name, matmul.in, matmul.out).second) continue;
      const auto routed = static_cast<Index>(std::llround(static_cast<double>(n) * matmul.rows));
      const std::vector<Index> rows = rows_of(cost, n, rows_by_expert(routed, matmul.groups, spread));
      const std::string name = std::string(name_of(cost.part)) + (matmul.name.empty() ? "" : " ") + std::string(matmul.name);
      measure(runtime, options, dtype, name, rows, matmul.in, matmul.out, results);
    }
  }
  if (runtime.rank != 0) return;
  report(options, results,
         fmt::format("products of {} rows a rank, {}, {} thread{} a rank, {} rank{}", n, name_of(dtype), threads, threads == 1 ? "" : "s",
                     runtime.size, runtime.size == 1 ? "" : "s"),
         dtype, threads, runtime.size);
}

}  // namespace yard::bench
