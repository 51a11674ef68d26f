#include "core/nn/routing/report.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace yard {

Tensor Reported::values() const {
  check(owner_ != nullptr, "a router reports a value that it has not declared");
  return owner_->values().row_range(first_, count_);
}

Reported RouterReport::scalar(std::string_view name, Index parts) {
  return all_->declare(name, RoutingReports::Kind::scalar, moe_layer_, 2 * parts);
}
Reported RouterReport::loss(std::string_view name) { return all_->declare(name, RoutingReports::Kind::loss, moe_layer_, 1); }
Reported RouterReport::per_expert(std::string_view name, Index experts) {
  return all_->declare(name, RoutingReports::Kind::per_expert, moe_layer_, experts);
}
Reported RouterReport::per_expert_replicated(std::string_view name, Index experts) {
  return all_->declare(name, RoutingReports::Kind::replicated, moe_layer_, experts);
}

void ReportedMean::add(const ReportedMean& other) {
  sums.resize(std::max(sums.size(), other.sums.size()), 0.0);
  weights.resize(sums.size(), 0.0);
  for (std::size_t i = 0; i < other.sums.size(); ++i) {
    sums[i] += other.sums[i];
    weights[i] += other.weights[i];
  }
}

double ReportedMean::weight() const { return std::accumulate(weights.begin(), weights.end(), 0.0); }

double ReportedMean::mean() const {
  const double all = weight();
  return all == 0 ? 0 : std::accumulate(sums.begin(), sums.end(), 0.0) / all;
}

std::vector<double> ReportedMean::parts() const {
  std::vector<double> means;
  for (std::size_t i = 0; i < sums.size(); ++i) means.push_back(weights[i] == 0 ? 0 : sums[i] / weights[i]);
  return means;
}

double RoutingSummary::loss(const std::string& name) const {
  const auto found = losses.find(name);
  return found == losses.end() ? 0 : found->second;
}

RouterReport& RoutingReports::add_layer() {
  layers_.push_back(std::make_unique<RouterReport>(*this, layers()));
  return *layers_.back();
}

void RoutingReports::bind(Tensor values) {
  check(values.dtype() == DType::f64 && values.elements() == size_, "the routers of this model report ", size_, " f64 values, got ",
        values.shape(), " ", name_of(values.dtype()));
  values_ = std::move(values);
}

const Tensor& RoutingReports::values() const {
  check(values_.defined(), "the reports of routers have no memory: bind it before training");
  return values_;
}

void RoutingReports::keep_one_copy(std::span<double> values, bool keeper) const {
  if (keeper) return;
  for (const Entry& entry : entries_) {
    if (entry.kind == Kind::replicated) std::fill_n(values.begin() + entry.first, entry.count, 0.0);
  }
}

RoutingSummary RoutingReports::summary(std::span<const double> values, Index micros) const {
  RoutingSummary result;
  result.layers.resize(layers_.size());
  std::map<std::string, double> layers_with_loss;
  for (const Entry& entry : entries_) {
    const auto own = values.subspan(static_cast<std::size_t>(entry.first), static_cast<std::size_t>(entry.count));
    RoutingSummary::Layer& layer = result.layers[static_cast<std::size_t>(entry.moe_layer)];
    if (entry.kind == Kind::loss) {
      layers_with_loss[entry.name] += 1;
      layer.losses[entry.name] = own[0] / static_cast<double>(micros);
    } else if (entry.kind == Kind::scalar) {
      const auto middle = own.begin() + entry.count / 2;
      layer.scalars[entry.name] = {{own.begin(), middle}, {middle, own.end()}};
      result.scalars[entry.name].add(layer.scalars[entry.name]);
    } else {
      layer.per_expert[entry.name] = {own.begin(), own.end()};
    }
  }
  for (const Entry& entry : entries_) {
    if (entry.kind != Kind::loss) continue;
    const double terms = layers_with_loss[entry.name] * static_cast<double>(micros);
    result.losses[entry.name] += values[static_cast<std::size_t>(entry.first)] / terms;
  }
  return result;
}

Reported RoutingReports::declare(std::string_view name, Kind kind, Index moe_layer, Index count) {
  check(count > 0 && !values_.defined(), "a router declares the values that it reports when it is made");
  for (const Entry& entry : entries_) {
    check(entry.moe_layer != moe_layer || entry.name != name, "a router reports two values of the name ", name);
  }
  entries_.push_back({std::string(name), kind, moe_layer, size_, count});
  size_ += count;
  return {*this, entries_.back().first, count};
}

}  // namespace yard
