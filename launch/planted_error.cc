#include "launch/planted_error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "launch/config_fields.h"

namespace yard {
namespace {

using Kind = PlantedError::Kind;

const std::map<std::string, Kind>& kinds() {
  static const std::map<std::string, Kind> names = {
      {"expert_gradient_factor", Kind::expert_gradient_factor},
      {"balance_by_data_degree", Kind::balance_by_data_degree},
      {"rank_initial_values", Kind::rank_initial_values},
      {"rank_noise", Kind::rank_noise},
      {"rank_data_order", Kind::rank_data_order},
      {"replicas_twice_in_norm", Kind::replicas_twice_in_norm},
      {"skip_empty_expert", Kind::skip_empty_expert},
  };
  return names;
}

void add_up(GradientReducer::Norms& norms) {
  norms.all = std::sqrt(norms.dense * norms.dense + norms.router * norms.router + norms.expert * norms.expert);
}

}  // namespace

PlantedError PlantedError::from_environment() {
  const char* name = std::getenv("SWITCHYARD_PLANT");  // NOLINT(concurrency-mt-unsafe): nobody sets variables
  if (name == nullptr || *name == '\0') return PlantedError();
  const auto found = kinds().find(name);
  if (found != kinds().end()) return PlantedError(found->second);
  std::vector<std::string> names;
  for (const auto& [each, kind] : kinds()) names.push_back(each);
  fail_input("SWITCHYARD_PLANT is '", name, "'; the errors that can be planted are ", listed(names));
}

void PlantedError::change(RunConfig& config, Mesh& mesh) const {
  const auto rank = static_cast<std::uint64_t>(mesh.rank());
  switch (kind_) {
    case Kind::balance_by_data_degree:
      config.mutable_losses()->set_balance(config.losses().balance() * mesh.shape().data);
      break;
    case Kind::rank_initial_values:
      config.mutable_init()->set_seed(config.init().seed() + rank);
      break;
    case Kind::rank_noise:
      config.mutable_run()->set_seed(config.run().seed() + rank);
      break;
    case Kind::rank_data_order:
      config.mutable_data()->set_seed(config.data().seed() + rank);
      break;
    default:
      break;
  }
}

void PlantedError::change(StepReport& report, ParameterStore& store, GradientReducer& gradients, Mesh& mesh) {
  if (kind_ == Kind::replicas_twice_in_norm) {
    const double dense = std::sqrt(mesh.replicas(ParamKind::dense).size());
    report.norms.dense *= dense;
    report.norms.router *= dense;
    report.norms.expert *= std::sqrt(mesh.replicas(ParamKind::expert).size());
    add_up(report.norms);
  }
  if (kind_ == Kind::expert_gradient_factor) {
    const auto factor = static_cast<float>(mesh.shape().expert);
    for (std::size_t b = 0; b < store.buffers().size(); ++b) {
      if (store.buffers()[b].kind != ParamKind::expert) continue;
      for (float& value : gradients.share(b).values<float>()) value *= factor;
    }
    report.norms.expert *= factor;
    add_up(report.norms);
  }
  if (kind_ != Kind::skip_empty_expert || mesh.size() == 1) return;
  for (const FlatBuffer& buffer : store.buffers()) {
    if (buffer.kind != ParamKind::expert) continue;
    for (const auto& segment : buffer.segments) {
      const Parameter& parameter = *segment.parameter;
      for (const Slice& slice : parameter.slices) {  // what this rank added to the sum is zero where no token came by
        const auto mine = parameter.grad.row_range(slice.row, slice.rows).values<float>();
        if (std::any_of(mine.begin(), mine.end(), [](float value) { return value != 0; })) continue;
        const Tensor place = parameter.value.row_range(slice.row, slice.rows);
        const auto values = place.values<float>();
        unstepped_.push_back({place, {values.begin(), values.end()}});
      }
    }
  }
}

void PlantedError::change_values(ParameterStore& store) {
  for (const Kept& kept : unstepped_) std::copy(kept.values.begin(), kept.values.end(), kept.place.values<float>().begin());
  if (!unstepped_.empty()) store.changed();
  unstepped_.clear();
}

}  // namespace yard
