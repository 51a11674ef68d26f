#include "launch/step_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <string_view>
#include <vector>

#include "launch/model_from_config.h"

namespace yard {
namespace {

YARD_COLLECTIVE kMetrics{"metrics"};

constexpr std::size_t kCollectiveFields = 5;  // calls, bytes within, bytes between, seconds, exposed seconds

/// The row of values that each rank contributes: phases, collectives by kind, the step's time and the memory. Equal in length on all ranks,
/// since all run one program and so have the same registered names; unregistered names are summed under "other", the last entry of each
/// list.
class Fields {
 public:
  std::size_t size() const { return memory() + 1; }
  std::size_t phase(std::size_t i) const { return i; }
  std::size_t collective(std::size_t i) const { return phases_.size() + i * kCollectiveFields; }
  std::size_t step() const { return collective(collectives_.size()); }
  std::size_t memory() const { return step() + 1; }
  const std::vector<std::string_view>& phases() const { return phases_; }
  const std::vector<std::string_view>& collectives() const { return collectives_; }

  void fill(const StepReport& report, double memory_bytes, std::span<double> row) const {
    for (const auto& [name, seconds] : report.phases) row[phase(index(phases_, name))] += seconds;
    for (const CollectiveRecord& record : report.collectives) {
      const std::size_t at = collective(index(collectives_, record.label.kind));
      row[at] += 1;
      row[at + 1] += static_cast<double>(record.bytes_within);
      row[at + 2] += static_cast<double>(record.bytes_between);
      row[at + 3] += record.seconds();
      row[at + 4] += record.exposed_seconds();
    }
    row[step()] = report.seconds;
    row[memory()] = memory_bytes;
  }

 private:
  static std::vector<std::string_view> with_other(std::vector<std::string_view> names) {
    names.emplace_back("other");
    return names;
  }
  static std::size_t index(const std::vector<std::string_view>& names, std::string_view name) {
    const auto other = names.end() - 1;
    const auto found = std::lower_bound(names.begin(), other, name);
    return static_cast<std::size_t>((found != other && *found == name ? found : other) - names.begin());
  }
  std::vector<std::string_view> phases_ = with_other(registered_phases());
  std::vector<std::string_view> collectives_ = with_other(registered_collectives());
};

void add_layers(StepMetrics& metrics, const ModelSettings& model, const StepReport& report) {
  std::size_t moe_layer = 0;
  for (Index layer = 0; layer < model.depth() && moe_layer < report.tokens_per_expert.size(); ++layer) {
    if (model.layer(layer).moe() == nullptr) continue;
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
    const RoutingSummary::Layer& reported = report.routing.layers.at(moe_layer - 1);
    for (const auto& [name, value] : reported.losses) (*out.mutable_losses())[name] = value;
    for (const auto& [name, mean] : reported.scalars) (*out.mutable_scalars())[name] = mean.mean();
    for (const auto& [name, values] : reported.per_expert) {
      auto& row = *(*out.mutable_per_expert())[name].mutable_values();
      row.Add(values.begin(), values.end());
    }
  }
}

/// Adds what routers report over all layers: names that have their own fields, and all other names.
void add_reports(StepMetrics& metrics, const RoutingSummary& routing) {
  for (const auto& [name, value] : routing.losses) {
    if (name == "balance") {
      metrics.set_balance_loss(value);
    } else if (name == "z") {
      metrics.set_z_loss(value);
    } else {
      (*metrics.mutable_losses())[name] = value;
    }
  }
  for (const auto& [name, mean] : routing.scalars) {
    if (name == "dropped") {
      metrics.set_dropped_fraction(mean.mean());
      for (const double fraction : mean.parts()) metrics.add_dropped_by_quarter(fraction);
    } else {
      (*metrics.mutable_scalars())[name] = mean.mean();
    }
  }
}

}  // namespace

StepMetrics step_metrics(RankRuntime& runtime, const RunConfig& config, double flops, const StepReport& report) {
  const Fields fields;
  const auto width = static_cast<Index>(fields.size());
  const Tensor mine = Tensor::zeros(runtime.host, {1, width}, DType::f64);
  const Tensor all(runtime.host, {runtime.size, width}, DType::f64);
  fields.fill(report, peak_memory_bytes(runtime), mine.values<double>());
  runtime.control.all_gather(runtime.host, {kMetrics}, mine, all, When::now).wait(runtime.host);
  const auto at = [&](int rank, std::size_t field) { return all.values<double>()[static_cast<std::size_t>(rank) * fields.size() + field]; };
  const auto slowest = [&](std::size_t field) {
    int which = 0;
    for (int rank = 1; rank < runtime.size; ++rank) which = at(rank, field) > at(which, field) ? rank : which;
    return which;
  };
  const auto largest = [&](std::size_t field) { return at(slowest(field), field); };
  const auto sum = [&](std::size_t field) {
    double total = 0;
    for (int rank = 0; rank < runtime.size; ++rank) total += at(rank, field);
    return total;
  };

  StepMetrics metrics;
  metrics.set_step(static_cast<int>(report.step));
  metrics.set_tokens(static_cast<double>(report.tokens));
  metrics.set_loss(report.loss);
  metrics.set_grad_norm(report.norms.all);
  metrics.set_learning_rate(report.learning_rate);
  const double seconds = largest(fields.step());
  const auto step_tokens = static_cast<double>(config.data().global_batch() * config.data().length());
  metrics.set_step_seconds(seconds);
  metrics.set_tokens_per_second(step_tokens / seconds);
  metrics.set_model_tflops(flops * step_tokens / seconds / runtime.size * 1e-12);
  metrics.set_memory_bytes(largest(fields.memory()));
  add_reports(metrics, report.routing);
  metrics.set_routing(RunConfig::Routing::Value_Name(config.run().routing()));
  metrics.set_skipped_steps(static_cast<int>(report.skipped_steps));
  add_layers(metrics, model_from_config(config), report);

  for (std::size_t i = 0; i < fields.phases().size(); ++i) {
    const std::size_t field = fields.phase(i);
    if (largest(field) <= 0) continue;
    PhaseMetrics& phase = *metrics.add_phases();
    phase.set_name(std::string(fields.phases()[i]));
    phase.set_seconds(largest(field));
    phase.set_max_rank(slowest(field));
  }
  for (std::size_t i = 0; i < fields.collectives().size(); ++i) {
    const std::size_t field = fields.collective(i);
    if (sum(field) <= 0) continue;
    const int rank = slowest(field + 3);
    CommunicationMetrics& out = *metrics.add_communication();
    out.set_name(std::string(fields.collectives()[i]));
    out.set_calls(static_cast<int>(at(rank, field)));
    out.set_bytes_within(sum(field + 1));
    out.set_bytes_between(sum(field + 2));
    out.set_seconds(at(rank, field + 3));
    out.set_exposed_seconds(at(rank, field + 4));
    out.set_hidden_seconds(std::max(0.0, at(rank, field + 3) - at(rank, field + 4)));
    out.set_slowest_rank(rank);
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
