// How near training comes to the rate of a plain matrix product: steps of a configuration on random tokens, and 1024 x 1024 products in
// the same precision, in turn in one process. Under mpirun all ranks do both together. Prints one JSON object.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "core/ops/matmul.h"
#include "core/random.h"
#include "launch/config_reader.h"
#include "launch/config_rules.h"
#include "launch/runtime.h"
#include "launch/trainer.h"

namespace yard {
namespace {

constexpr Index kSide = 1024;
constexpr int kRounds = 10;

/// Seconds of one 1024 x 1024 x 1024 product on this rank's threads, every rank at once; the best of a few.
double product_seconds(RankRuntime& runtime, Mesh& mesh, const Tensor& x, const ops::Weights& weights) {
  double best = 1e9;
  for (int repeat = 0; repeat < 4; ++repeat) {
    mesh.world().barrier({"bench"});
    const auto start = Clock::now();
    (void)ops::matmul(runtime.stream(), x, weights);
    best = std::min(best, seconds_between(start, Clock::now()));
  }
  return best;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void bench(RankRuntime& runtime, const std::string& file, const std::vector<std::string>& settings) {
  RunConfig config = load_config(file, settings);
  config = resolve(config, runtime.size);
  const int threads = choose_threads(runtime, config.run().threads());
  const DType compute = choose_precision(runtime, config.run().precision());
  const auto made = runtime.make_mesh(config.mesh());
  Mesh& mesh = *made;
  std::vector<std::int32_t> ids(1 << 20);
  const Random random(1);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int32_t>(random.bits(i) % static_cast<std::uint64_t>(config.model().vocabulary()));
  }
  Trainer trainer(runtime, mesh, config, compute, std::make_shared<TokenStream>(std::move(ids), "random tokens"), -1);
  const Tensor x = Tensor::zeros(runtime.stream(), {kSide, kSide}, compute);
  const ops::Weights weights(Tensor::zeros(runtime.stream(), {kSide, kSide}, compute), 1);

  std::vector<double> steps;
  std::vector<double> products;
  for (int round = -2; round < kRounds; ++round) {  // the first two warm up
    const double product = product_seconds(runtime, mesh, x, weights);
    mesh.world().barrier({"bench"});
    const double step = trainer.step().seconds;
    if (round < 0) continue;
    products.push_back(product);
    steps.push_back(step);
  }
  // The slowest rank's step, and all ranks' products together.
  Tensor figures = Tensor::zeros(runtime.stream(), {1}, DType::f64);
  figures.values<double>()[0] = 2.0 * kSide * kSide * kSide / median(products);
  mesh.world().all_reduce(runtime.stream(), {"bench"}, figures, Reduce::sum).wait(runtime.stream());
  Tensor slowest = Tensor::zeros(runtime.stream(), {1}, DType::f64);
  slowest.values<double>()[0] = median(steps);
  mesh.world().all_reduce(runtime.stream(), {"bench"}, slowest, Reduce::max).wait(runtime.stream());
  if (runtime.rank != 0) return;
  std::sort(steps.begin(), steps.end());
  const double seconds = slowest.values<double>()[0];
  const auto tokens = static_cast<double>(config.data().global_batch() * config.data().length());
  const double model = trainer.model().transformer->costs().training_flops_per_token(config.data().length()) * tokens / seconds;
  const double product = figures.values<double>()[0];
  std::cout
      << fmt::format(
             R"({{"ranks": {}, "threads": {}, "precision": "{}", "median_seconds": {:.5f}, "fastest_seconds": {:.5f}, "slowest_seconds": {:.5f}, "tokens_per_second": {:.1f}, "model_gflops": {:.1f}, "product_gflops": {:.1f}, "ratio": {:.3f}}})",
             runtime.size, threads, name_of(compute), seconds, steps.front(), steps.back(), tokens / seconds, model * 1e-9, product * 1e-9,
             model / product)
      << std::endl;
}

}  // namespace
}  // namespace yard

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: bench.step_rate CONFIG [path.to.field=value]...\n";
    return 2;
  }
  return yard::run_on_ranks([&](yard::RankRuntime& runtime) { yard::bench(runtime, argv[1], {argv + 2, argv + argc}); });
}
