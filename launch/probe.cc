#include "launch/probe.h"

#include <algorithm>
#include <limits>

namespace yard {
namespace {

/// Adds values of a parameter, from element `first` on, to the checksums of the logical tensors that they belong to.
void add_part(const Parameter& parameter, Index first, std::span<const float> values, std::map<std::string, Checksum>& sums) {
  const Index width = parameter.shape.elements() / parameter.shape[0];
  const Index last = first + static_cast<Index>(values.size());
  for (const Slice& slice : parameter.slices) {
    const Index from = std::max(first, slice.row * width);
    const Index to = std::min(last, (slice.row + slice.rows) * width);
    if (from >= to) continue;
    Checksum part;
    for (Index i = from; i < to; ++i) {
      const double value = values[static_cast<std::size_t>(i - first)];
      part.sum += value;
      part.squares += value * value;
    }
    part.count = to - from;
    sums[slice.name].add(part);
  }
}

}  // namespace

Probe::Probe(const std::string& folder, Mesh& mesh)
    : mesh_(mesh), writer_(folder, mesh.rank()), planted_(PlantedError::from_environment()) {}

RunConfig Probe::config(RunConfig resolved) {
  planted_.change(resolved, mesh_);
  return resolved;
}

TrainHooks Probe::hooks() {
  TrainHooks hooks;
  hooks.log = this;
  hooks.gradients = [this](StepReport& report, ParameterStore& store, GradientReducer& reducer) { gradients(report, store, reducer); };
  return hooks;
}

void Probe::gradients(StepReport& report, ParameterStore& store, GradientReducer& reducer) {
  planted_.change(report, store, reducer, mesh_);
  ProbeStep step{report.step, report.loss, report.routing.loss("balance"), report.routing.loss("z"), report.norms, report.tokens_per_expert,
                 {}};
  for (std::size_t b = 0; b < store.buffers().size(); ++b) {
    const Tensor& share = reducer.share(b);
    for (const SharePart& part : parts_of_share(store.buffers()[b], reducer.first(b), share.elements())) {
      add_part(*part.parameter, part.in_parameter, share.row_range(part.in_share, part.count).values<float>(), step.gradients);
    }
  }
  writer_.write(step);
}

void Probe::stepped(Model& model) { planted_.change_values(*model.parameters); }

void Probe::record(const Context& context, Index moe_layer, const Routing& routing) {
  RoutingBlock block;
  block.step = context.step + 1;
  block.micro = context.micro;
  block.layer = moe_layer;
  block.first_row = context.tokens.first_sequence * context.tokens.length;
  block.rows = context.tokens.rows();
  const auto tokens = routing.token.values<std::int32_t>();
  const auto experts = (routing.chosen.defined() ? routing.chosen : routing.expert).values<std::int32_t>();
  block.token.assign(tokens.begin(), tokens.end());
  block.expert.assign(experts.begin(), experts.end());
  if (routing.margin.defined()) {
    const auto margins = routing.margin.values<float>();
    block.margin.assign(margins.begin(), margins.end());
  } else {
    block.margin.assign(static_cast<std::size_t>(block.rows), std::numeric_limits<float>::infinity());
  }
  writer_.write(block);
}

}  // namespace yard
