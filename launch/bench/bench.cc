#include "launch/bench/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>

#include "core/io/file.h"
#include "core/io/json.h"

namespace yard::bench {
namespace {

YARD_COLLECTIVE kBench{"bench"};

}  // namespace

double slowest(RankRuntime& runtime, double seconds) {
  const Tensor most = Tensor::of<double>(runtime.host, {1}, std::vector<double>{seconds});
  runtime.control.all_reduce(runtime.host, {kBench}, most, Reduce::max, When::now).wait(runtime.host);
  return most.data<double>()[0];
}

double Result::quantile(double q) const {
  if (seconds.empty()) return 0;
  const double at = q * static_cast<double>(seconds.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, seconds.size() - 1);
  const double part = at - static_cast<double>(below);
  return seconds[below] * (1 - part) + seconds[above] * part;
}

std::vector<double> time_runs(RankRuntime& runtime, const Options& options, const std::function<void()>& body) {
  std::vector<double> seconds;
  for (Index run = -options.warmup; run < options.repeat; ++run) {
    runtime.control.barrier({kBench});
    const auto start = Clock::now();
    body();
    const double took = slowest(runtime, seconds_between(start, Clock::now()));
    if (run >= 0) seconds.push_back(took);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

ops::host::Floor common_floor(RankRuntime& runtime, const Options& options, std::span<const ops::host::FloorProduct> products,
                              DType dtype) {
  runtime.control.barrier({kBench});
  ops::host::Floor floor = ops::host::product_floor(runtime.stream(), products, dtype, static_cast<int>(options.repeat));
  floor.seconds = slowest(runtime, floor.seconds);
  return floor;
}

void report(const Options& options, const std::vector<Result>& results, const std::string& heading, DType dtype, int threads, int ranks) {
  const bool parts = std::any_of(results.begin(), results.end(), [](const Result& each) { return each.share > 0; });
  const auto line = [&](const std::string& name, const std::vector<std::string>& cells, const std::string& last) {
    std::string text = fmt::format("{:<34}", name);
    for (const std::string& cell : cells) text += fmt::format(" {:>10}", cell);
    text += "  " + last;
    return text.substr(0, text.find_last_not_of(' ') + 1) + "\n";
  };
  std::vector<std::string> titles = {"median ms", "p05 ms", "p95 ms", "TFLOP/s", "floor ms", "ratio"};
  if (parts) titles.insert(titles.begin() + 1, "share %");
  std::cout << heading << "\n" << line("name", titles, "floor by");
  nlohmann::json objects = nlohmann::json::array();
  for (const Result& each : results) {
    const double tflops = each.median() > 0 ? each.flops / each.median() * 1e-12 : 0;
    const bool compared = each.floor.seconds > 0;
    const auto number = [](bool known, double value) { return known ? fmt::format("{:.3f}", value) : std::string("-"); };
    std::vector<std::string> cells = {number(true, each.median() * 1e3),
                                      number(each.seconds.size() > 1, each.quantile(0.05) * 1e3),
                                      number(each.seconds.size() > 1, each.quantile(0.95) * 1e3),
                                      number(each.flops > 0, tflops),
                                      number(compared, each.floor.seconds * 1e3),
                                      number(compared, each.floor_ratio())};
    if (parts) cells.insert(cells.begin() + 1, fmt::format("{:.1f}", 100 * each.share));
    std::cout << line(each.name, cells, each.floor.library);
    objects.push_back({{"name", each.name},
                       {"median_seconds", each.median()},
                       {"p05_seconds", each.quantile(0.05)},
                       {"p95_seconds", each.quantile(0.95)},
                       {"tflops", tflops},
                       {"floor_seconds", each.floor.seconds},
                       {"floor_ratio", each.floor_ratio()},
                       {"floor_library", each.floor.library},
                       {"precision", std::string(name_of(dtype))},
                       {"threads", threads},
                       {"ranks", ranks}});
    if (parts) objects.back()["share"] = each.share;
  }
  std::cout << std::flush;
  if (options.json.empty()) return;
  FileWriter file(options.json);
  file.write(json_text(objects, 1) + "\n");
  file.finish();
}

void add_training_products(std::vector<ops::host::FloorProduct>& products, const MatmulCost& matmul, std::span<const Index> rows) {
  for (const Index n : rows) {
    products.push_back({n, matmul.out, matmul.in});
    products.push_back({n, matmul.in, matmul.out});
    products.push_back({matmul.out, matmul.in, n});
  }
}

std::vector<Index> rows_of(const Cost& cost, Index tokens, std::span<const Index> rows_per_expert) {
  if (cost.part == ModelPart::experts) return {rows_per_expert.begin(), rows_per_expert.end()};
  return {tokens};
}

}  // namespace yard::bench
