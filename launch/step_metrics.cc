#include "launch/step_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <fstream>
#include <numeric>

#include "core/nn/flops.h"
#include "launch/model_from_config.h"

namespace yard {
namespace {

/// Parts of a step, in the order in which reports show them.
constexpr std::array kPhases = {"data",
                                "embedding.forward",
                                "norm.forward",
                                "attention.forward",
                                "router.forward",
                                "exchange.plan",
                                "exchange.gather",
                                "experts.forward",
                                "exchange.scatter",
                                "exchange.combine",
                                "cross_entropy",
                                "experts.backward",
                                "router.backward",
                                "attention.backward",
                                "norm.backward",
                                "embedding.backward",
                                "gradient.norm",
                                "optimizer",
                                "validation",
                                "checkpoint"};

/// What collectives are for; those of a layer are added up over layers here.
constexpr std::array kTransfers = {"counts",
                                   "dispatch",
                                   "combine",
                                   "dispatch.backward",
                                   "combine.backward",
                                   "routing.counts",
                                   "gradients.dense",
                                   "gradients.expert",
                                   "gradient.norm",
                                   "metrics",
                                   "parameters.dense",
                                   "parameters.expert",
                                   "router.state",
                                   "validation",
                                   "signs",
                                   "agree",
                                   "text",
                                   "checkpoint",
                                   "checkpoint.masters"};

constexpr Index kTransferFields = 5;
constexpr auto kFields = static_cast<Index>(kPhases.size()) + kTransferFields * static_cast<Index>(kTransfers.size()) + 2;

/// "layer.3.dispatch" and "dispatch" are both of the kind "dispatch".
std::string_view kind_of(std::string_view label) {
  if (!label.starts_with("layer.")) return label;
  const auto dot = label.find('.', 6);
  return dot == std::string_view::npos ? label : label.substr(dot + 1);
}

void fill_row(const StepReport& report, double memory, std::span<double> row) {
  std::size_t at = 0;
  for (const char* phase : kPhases) {
    const auto found = report.profile.phases.find(phase);
    row[at++] = found == report.profile.phases.end() ? 0 : found->second;
  }
  for (const char* kind : kTransfers) {
    for (const auto& [label, totals] : report.profile.transfers) {
      if (kind_of(label) != kind) continue;
      row[at] += static_cast<double>(totals.calls);
      row[at + 1] += static_cast<double>(totals.bytes_within);
      row[at + 2] += static_cast<double>(totals.bytes_between);
      row[at + 3] += totals.seconds;
      row[at + 4] += totals.exposed_seconds;
    }
    at += kTransferFields;
  }
  row[at] = report.seconds;
  row[at + 1] = memory;
}

void add_layers(StepMetrics& metrics, const ModelShape& shape, const StepReport& report) {
  std::size_t moe_layer = 0;
  for (Index layer = 0; layer < shape.layers && moe_layer < report.tokens_per_expert.size(); ++layer) {
    if (!shape.is_moe(layer)) continue;
    const auto& counts = report.tokens_per_expert[moe_layer++];
    const double total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), Index{0}));
    LayerMetrics& out = *metrics.add_layers();
    out.set_layer(static_cast<int>(layer));
    double largest = 0;
    double entropy = 0;
    for (const Index count : counts) {
      out.add_tokens_per_expert(static_cast<double>(count));
      largest = std::max(largest, static_cast<double>(count));
      if (count > 0) entropy -= static_cast<double>(count) / total * std::log(static_cast<double>(count) / total);
    }
    out.set_max_over_mean(total > 0 ? largest * static_cast<double>(counts.size()) / total : 0);
    out.set_entropy(entropy);
  }
}

}  // namespace

StepMetrics step_metrics(RankRuntime& runtime, Mesh& mesh, const RunConfig& config, const StepReport& report) {
  const Tensor mine = Tensor::zeros(runtime.host, {1, kFields}, DType::f64);
  const Tensor all(runtime.host, {mesh.size(), kFields}, DType::f64);
  fill_row(report, peak_memory_bytes(runtime), mine.values<double>());
  mesh.world().all_gather(runtime.host, runtime.profiler, {"metrics"}, mine, all, When::now).wait(runtime.host);
  const auto at = [&](int rank, Index field) { return all.values<double>()[static_cast<std::size_t>(rank * kFields + field)]; };
  const auto slowest = [&](Index field) {
    int which = 0;
    for (int rank = 1; rank < mesh.size(); ++rank) which = at(rank, field) > at(which, field) ? rank : which;
    return which;
  };
  const auto sum = [&](Index field) {
    double total = 0;
    for (int rank = 0; rank < mesh.size(); ++rank) total += at(rank, field);
    return total;
  };

  StepMetrics metrics;
  metrics.set_step(static_cast<int>(report.step));
  metrics.set_tokens(static_cast<double>(report.tokens));
  metrics.set_loss(report.loss);
  metrics.set_balance_loss(report.balance_loss);
  metrics.set_z_loss(report.z_loss);
  metrics.set_grad_norm(report.norms.all);
  metrics.set_learning_rate(report.learning_rate);
  const double seconds = at(slowest(kFields - 2), kFields - 2);
  const auto step_tokens = static_cast<double>(config.data().global_batch() * config.data().length());
  metrics.set_step_seconds(seconds);
  metrics.set_tokens_per_second(step_tokens / seconds);
  const ModelShape shape = shape_from_config(config);
  metrics.set_model_tflops(training_flops_per_token(shape, config.data().length()) * step_tokens / seconds / mesh.size() * 1e-12);
  metrics.set_memory_bytes(at(slowest(kFields - 1), kFields - 1));
  metrics.set_dropped_fraction(report.dropped_fraction);
  for (const double fraction : report.dropped_by_quarter) metrics.add_dropped_by_quarter(fraction);
  metrics.set_routing(RunConfig::Routing::Value_Name(config.run().routing()));
  metrics.set_skipped_steps(static_cast<int>(report.skipped_steps));
  add_layers(metrics, shape, report);

  Index field = 0;
  for (const char* name : kPhases) {
    const int rank = slowest(field);
    if (at(rank, field) > 0) {
      PhaseMetrics& phase = *metrics.add_phases();
      phase.set_name(name);
      phase.set_seconds(at(rank, field));
      phase.set_max_rank(rank);
    }
    ++field;
  }
  for (const char* name : kTransfers) {
    if (sum(field) > 0) {
      const int rank = slowest(field + 3);
      CommunicationMetrics& out = *metrics.add_communication();
      out.set_name(name);
      out.set_calls(static_cast<int>(at(rank, field)));
      out.set_bytes_within(sum(field + 1));
      out.set_bytes_between(sum(field + 2));
      out.set_seconds(at(rank, field + 3));
      out.set_exposed_seconds(at(rank, field + 4));
      out.set_hidden_seconds(std::max(0.0, at(rank, field + 3) - at(rank, field + 4)));
      out.set_slowest_rank(rank);
    }
    field += kTransferFields;
  }
  return metrics;
}

double resident_bytes() {
  std::ifstream file("/proc/self/statm");
  double pages = 0;
  file >> pages >> pages;
  return pages * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double peak_memory_bytes(RankRuntime& runtime) {
  if (runtime.gpu) return static_cast<double>(runtime.gpu->allocator()->peak());
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

}  // namespace yard
