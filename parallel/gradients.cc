#include "parallel/gradients.h"

#include <algorithm>
#include <cmath>

#include "core/ops/elementwise.h"

namespace yard {
namespace {

YARD_PHASE kNormPhase{"gradient.norm"};
YARD_COLLECTIVE kDense{"gradients.dense"};
YARD_COLLECTIVE kExpert{"gradients.expert"};
YARD_COLLECTIVE kNorm{"gradient.norm"};

}  // namespace

int layer_of_group(const ParameterStore& store, Index group) {
  if (group == 0) return Label::kEmbedding;
  return group + 1 == store.groups() ? Label::kHead : static_cast<int>(group) - 1;
}

std::vector<SharePart> parts_of_share(const FlatBuffer& buffer, Index first, Index count) {
  std::vector<SharePart> parts;
  for (const auto& segment : buffer.segments) {
    const Index from = std::max(first, segment.first);
    const Index to = std::min(first + count, segment.first + segment.count);
    if (from < to) parts.push_back({segment.parameter, from - first, from - segment.first, to - from});
  }
  return parts;
}

GradientReducer::GradientReducer(ParameterStore& store, Mesh& mesh) : store_(store), mesh_(mesh) {
  for (auto& buffer : store.buffers()) {
    const int replicas = mesh.replicas(buffer.kind).size();
    // Single replica: nothing to reduce. Otherwise shards get memory when their sums are posted.
    shares_.push_back(replicas == 1 ? buffer.grad : Tensor());
  }
}

Index GradientReducer::first(std::size_t b) const {
  const FlatBuffer& buffer = store_.buffers().at(b);
  Communicator& replicas = mesh_.replicas(buffer.kind);
  return buffer.value.elements() / replicas.size() * replicas.rank();
}

void GradientReducer::ready(Context& context, Index group) {
  for (std::size_t b = 0; b < store_.buffers().size(); ++b) {
    FlatBuffer& buffer = store_.buffers()[b];
    Communicator& replicas = mesh_.replicas(buffer.kind);
    if (buffer.group != group || replicas.size() == 1) continue;
    if (!shares_[b].defined()) shares_[b] = Tensor(context.stream, {buffer.grad.elements() / replicas.size()});
    const Label label{buffer.kind == ParamKind::dense ? kDense : kExpert, layer_of_group(store_, group)};
    posted_.push_back(replicas.reduce_scatter(context.stream, label, buffer.grad, shares_[b]));
  }
}

void GradientReducer::finish(Context& context) {
  for (Work& work : posted_) work.wait(context.stream);
  posted_.clear();
}

GradientReducer::Norms GradientReducer::norms(Context& context) {
  const Span span(context.profiler, kNormPhase);
  const Tensor squares = Tensor::zeros(context.stream, {3}, DType::f64);
  for (std::size_t b = 0; b < store_.buffers().size(); ++b) {
    for (const SharePart& part : parts_of_share(store_.buffers()[b], first(b), shares_[b].elements())) {
      const bool router = part.parameter->rate == RateClass::router;
      const Index which = part.parameter->kind == ParamKind::expert ? 2 : router ? 1 : 0;
      ops::add_squared_norm(context.stream, shares_[b].row_range(part.in_share, part.count), squares.row_range(which, 1));
    }
  }
  mesh_.world().all_reduce(context.stream, {kNorm}, squares, Reduce::sum, When::now).wait(context.stream);
  const Tensor on_host = squares.to(context.stream, Device{});
  const auto sums = on_host.values<double>();
  return {std::sqrt(sums[0] + sums[1] + sums[2]), std::sqrt(sums[0]), std::sqrt(sums[1]), std::sqrt(sums[2])};
}

}  // namespace yard
