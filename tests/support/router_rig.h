#pragma once

#include <memory>
#include <string>

#include "core/nn/routing/router_kind.h"
#include "launch/config_fields.h"
#include "launch/config_reader.h"
#include "launch/proto_settings.h"
#include "tests/support/support.h"

namespace yard::test {

/// A standalone router, constructed from its entry of the table like a model's, with memory for its reports.
class RouterRig {
 public:
  /// `fields`: of model.router, as text; `sequences`: of the batches that it will see.
  RouterRig(const std::string& kind, const std::string& fields, RouterPlace place, Index sequences) : table_(router_table()) {
    RunConfig config = parse_config("model { router { " + fields + " } }", "test");
    fill_plain_defaults(config);
    ProtoSettings settings(*config.mutable_model()->mutable_router(), "model.router");
    const RouterKind* found = find_router(table_, kind);
    check(found != nullptr, "there is no router ", kind);
    found->rules(settings, {place.experts, place.top_k, sequences, place.losses});
    router_ = found->make({std::move(place), settings, cpu(), reports.add_layer(), {}});
    clear();
  }
  Router& operator*() noexcept { return *router_; }
  Router* operator->() noexcept { return router_.get(); }
  /// Releases the router to a layer or decorator; its reports stay here.
  std::unique_ptr<Router> take() { return std::move(router_); }

  /// Starts the reports from zero.
  void clear() { reports.bind(Tensor::zeros(cpu(), {reports.size()}, DType::f64)); }
  /// The reports since then.
  RoutingSummary reported() const { return reports.summary(reports.values().values<double>(), 1); }
  /// A scalar's sums and weights, one after the other; empty where the router does not report it.
  std::vector<double> scalar(const std::string& name) const {
    const RoutingSummary summary = reported();
    const auto found = summary.scalars.find(name);
    if (found == summary.scalars.end()) return {};
    std::vector<double> values = found->second.sums;
    values.insert(values.end(), found->second.weights.begin(), found->second.weights.end());
    return values;
  }

  RoutingReports reports;

 private:
  RouterTable table_;
  std::unique_ptr<Router> router_;
};

}  // namespace yard::test
