#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/nn/cost.h"
#include "core/ops/host/product_floor.h"
#include "launch/runtime.h"
#include "parallel/mesh.h"

namespace yard::bench {

/// What all benchmarks take.
struct Options {
  std::string precision = "auto";
  Index repeat = 10, warmup = 3;
  Index threads = 0;
  std::string json;
};

/// One line of a benchmark: times of the slowest rank, the floor of its products beside them.
struct Result {
  std::string name;
  std::vector<double> seconds;  // of each repetition, sorted
  double flops = 0;             // of the products, of one rank
  double share = 0;             // of the whole that it is a part of; 0 when it is none
  ops::host::Floor floor;       // 0 seconds where there is nothing to compare with
  double median() const { return seconds.empty() ? 0 : seconds[seconds.size() / 2]; }
  double quantile(double q) const;
  double floor_ratio() const { return median() > 0 ? floor.seconds / median() : 0; }
};

/// The largest of all ranks' seconds. Collective.
double slowest(RankRuntime&, double seconds);
/// Runs `body` on all ranks at once and times it: warm-up runs are left out, each time is the slowest rank's. Collective.
std::vector<double> time_runs(RankRuntime&, const Options&, const std::function<void()>& body);
/// The reference time of these GEMMs, measured on all ranks at once: the slowest rank's. Collective.
ops::host::Floor common_floor(RankRuntime&, const Options&, std::span<const ops::host::FloorProduct>, DType);

/// Prints the results as a table and writes them as JSON if a file was asked for: name, median_seconds, p05_seconds, p95_seconds,
/// tflops, floor_seconds, floor_ratio, floor_library, precision, threads, ranks.
void report(const Options&, const std::vector<Result>&, const std::string& heading, DType, int threads, int ranks);

/// Adds the GEMMs of a matmul: forward, input gradient and weight gradient. `rows`: one rank's rows for each of its groups.
void add_training_products(std::vector<ops::host::FloorProduct>&, const MatmulCost&, std::span<const Index> rows);
/// One rank's rows of a matmul: those of each local expert for routed experts, else all of the rank's tokens.
std::vector<Index> rows_of(const Cost&, Index tokens, std::span<const Index> rows_per_expert);

/// The GEMMs of a configuration, forward and both gradients, dense and by expert.
void gemm(RankRuntime&, const Options&, const RunConfig&, double spread);
/// One Mixture-of-Experts layer, forward and backward.
void layer(RankRuntime&, const Options&, const RunConfig&);
/// A whole training step, phase by phase.
void step(RankRuntime&, const Options&, const RunConfig&);
/// One sequence per rank, token by token, compared with the time to read the weights that a token uses.
void generate(RankRuntime&, const Options&, const RunConfig&, Index prompt_tokens, Index new_tokens);

}  // namespace yard::bench
