#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor/tensor.h"

namespace yard {

class RoutingReports;

/// The values of one name that a router reports; `values` is where it adds them, in f64.
class Reported {
 public:
  Reported() = default;
  /// Whether a router declared it.
  explicit operator bool() const noexcept { return owner_ != nullptr; }
  Tensor values() const;

 private:
  friend class RoutingReports;
  Reported(const RoutingReports& owner, Index first, Index count) : owner_(&owner), first_(first), count_(count) {}
  const RoutingReports* owner_ = nullptr;
  Index first_ = 0, count_ = 0;
};

/// What the router of one MoE layer reports, by names that it declares when it is made. Every rank declares the same in the same order.
class RouterReport {
 public:
  RouterReport(RoutingReports& all, Index moe_layer) : all_(&all), moe_layer_(moe_layer) {}
  /// A mean: `parts` sums, then their `parts` weights. Ranks, micro-batches and layers are added before the division.
  Reported scalar(std::string_view name, Index parts = 1);
  /// An auxiliary loss at coefficient 1, (1): this rank's part of a micro-batch's loss. Logged as the mean over layers and micro-batches.
  Reported loss(std::string_view name);
  /// A value for each expert, summed over ranks and micro-batches.
  Reported per_expert(std::string_view name, Index experts);
  /// A value for each expert that every rank holds alike, such as a bias; written once a step.
  Reported per_expert_replicated(std::string_view name, Index experts);

 private:
  RoutingReports* all_;
  Index moe_layer_;
};

/// A reported mean, in one or several parts.
struct ReportedMean {
  std::vector<double> sums, weights;
  void add(const ReportedMean& other);
  double weight() const;
  /// Over all parts; 0 where nothing has been counted.
  double mean() const;
  std::vector<double> parts() const;
};

/// A step's reports, over all ranks.
struct RoutingSummary {
  struct Layer {
    std::map<std::string, double> losses;
    std::map<std::string, ReportedMean> scalars;
    std::map<std::string, std::vector<double>> per_expert;
  };
  std::map<std::string, double> losses;         // means over the layers that have them
  std::map<std::string, ReportedMean> scalars;  // of all layers together
  std::vector<Layer> layers;                    // of each MoE layer
  /// A loss by its name; 0 where no layer reports it.
  double loss(const std::string& name) const;
};

/// The reports of all MoE layers of a model. Their values lie in one f64 tensor, so that a step copies and reduces them once.
class RoutingReports {
 public:
  RoutingReports() = default;
  RoutingReports(const RoutingReports&) = delete;
  RoutingReports& operator=(const RoutingReports&) = delete;
  ~RoutingReports() = default;

  /// The report of the next MoE layer; valid as long as this.
  RouterReport& add_layer();
  Index layers() const noexcept { return static_cast<Index>(layers_.size()); }
  /// Number of values, once all routers have been made.
  Index size() const noexcept { return size_; }
  /// Where the values are, (size) f64; cleared by its owner at the start of a step.
  void bind(Tensor values);
  const Tensor& values() const;

  /// Zeroes what only one rank may add to the sum over ranks.                                           values: a rank's, on the host
  void keep_one_copy(std::span<double> values, bool keeper) const;
  /// values: summed over ranks.
  RoutingSummary summary(std::span<const double> values, Index micros) const;

 private:
  friend class RouterReport;
  enum class Kind : std::uint8_t { scalar, loss, per_expert, replicated };
  struct Entry {
    std::string name;
    Kind kind;
    Index moe_layer, first, count;
  };
  Reported declare(std::string_view name, Kind kind, Index moe_layer, Index count);
  std::vector<std::unique_ptr<RouterReport>> layers_;
  std::vector<Entry> entries_;
  Index size_ = 0;
  Tensor values_;
};

}  // namespace yard
