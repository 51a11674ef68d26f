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

/// One named quantity that a router reports. The router adds to `values()`, f64.
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

/// The quantities that the router of one MoE layer reports. It declares them by name when it is constructed, on every rank the same in the
/// same order.
class RouterReport {
 public:
  RouterReport(RoutingReports& all, Index moe_layer) : all_(&all), moe_layer_(moe_layer) {}
  /// A weighted mean in `parts` parts: `parts` sums, then `parts` weights. Both are summed over ranks, micro-batches and layers before the
  /// division.
  Reported scalar(std::string_view name, Index parts = 1);
  /// An auxiliary loss at coefficient 1, one value: this rank's part of a micro-batch's loss. Logged as the mean over layers and
  /// micro-batches.
  Reported loss(std::string_view name);
  /// One value per expert, summed over ranks and micro-batches.
  Reported per_expert(std::string_view name, Index experts);
  /// One value per expert that is equal on all ranks, such as a bias; written once per step.
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
  /// The mean over all parts; 0 if their weight is 0.
  double mean() const;
  std::vector<double> parts() const;
};

/// The reports of one step, over all ranks.
struct RoutingSummary {
  struct Layer {
    std::map<std::string, double> losses;
    std::map<std::string, ReportedMean> scalars;
    std::map<std::string, std::vector<double>> per_expert;
  };
  std::map<std::string, double> losses;         // means over the layers that have them
  std::map<std::string, ReportedMean> scalars;  // over all layers
  std::vector<Layer> layers;                    // one per MoE layer
  /// The loss of that name; 0 if no layer reports it.
  double loss(const std::string& name) const;
};

/// The reports of all MoE layers of a model. Their values are in one f64 tensor, which is copied and reduced once per step.
class RoutingReports {
 public:
  RoutingReports() = default;
  RoutingReports(const RoutingReports&) = delete;
  RoutingReports& operator=(const RoutingReports&) = delete;
  ~RoutingReports() = default;

  /// Adds the report of the next MoE layer. The reference is valid as long as this object.
  RouterReport& add_layer();
  Index layers() const noexcept { return static_cast<Index>(layers_.size()); }
  /// Number of values; final once all routers have been constructed.
  Index size() const noexcept { return size_; }
  /// Sets the memory of the values, (size) f64; its owner clears it at the start of a step. Throws Error for another size or dtype.
  void bind(Tensor values);
  const Tensor& values() const;

  /// Zeroes replicated values except on one rank, the keeper, so that a sum over ranks counts them once.  values: this rank's, on the host
  void keep_one_copy(std::span<double> values, bool keeper) const;
  /// The summary of values that have been summed over ranks. `micros`: micro-batches per step.
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
