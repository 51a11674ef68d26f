#include "parallel/sharded_adamw.h"

#include "core/ops/adamw.h"
#include "core/ops/elementwise.h"

namespace yard {
namespace {

YARD_PHASE kOptimizer{"optimizer"};
YARD_COLLECTIVE kDense{"parameters.dense"};
YARD_COLLECTIVE kExpert{"parameters.expert"};

/// This rank's range of a buffer's values.
Tensor own_values(const FlatBuffer& buffer, Communicator& replicas) {
  const Index count = buffer.value.elements() / replicas.size();
  return buffer.value.row_range(count * replicas.rank(), count);
}

}  // namespace

ShardedAdamW::ShardedAdamW(Stream& stream, ParameterStore& store, Mesh& mesh, GradientReducer& gradients, Settings settings,
                           std::uint64_t init_seed)
    : store_(store), mesh_(mesh), gradients_(gradients), settings_(settings) {
  for (const FlatBuffer& buffer : store.buffers()) {
    const Tensor own = own_values(buffer, mesh.replicas(buffer.kind));
    Share share;
    share.first = Tensor::zeros(stream, own.shape());
    share.second = Tensor::zeros(stream, own.shape());
    share.master = buffer.value.dtype() == DType::f32 ? own : Tensor::zeros(stream, own.shape());
    const Index begin = own.elements() * mesh.replicas(buffer.kind).rank();
    for (const SharePart& part : parts_of_share(buffer, begin, own.elements())) {
      fill_initial(stream, *part.parameter, init_seed, part.in_parameter, share.master.row_range(part.in_share, part.count));
    }
    shares_.push_back(std::move(share));
  }
}

float ShardedAdamW::rate_of(const Parameter& parameter, float rate) const {
  switch (parameter.rate) {
    case RateClass::router:
      return rate * settings_.router_scale;
    case RateClass::expert:
      return rate * settings_.expert_scale;
    case RateClass::embedding:
      return rate * settings_.embedding_scale;
    default:
      return rate;
  }
}

void ShardedAdamW::step(Context& context, const AdamWStep& step) {
  {
    const Span span(context.profiler, kOptimizer);
    for (std::size_t b = 0; b < shares_.size(); ++b) {
      const FlatBuffer& buffer = store_.buffers()[b];
      const Share& share = shares_[b];
      const Tensor own = own_values(buffer, mesh_.replicas(buffer.kind));
      for (const SharePart& part : parts_of_share(buffer, gradients_.first(b), own.elements())) {
        const auto range = [&](const Tensor& flat) { return flat.row_range(part.in_share, part.count); };
        ops::AdamWSettings settings;
        settings.rate = rate_of(*part.parameter, step.rate);
        settings.beta1 = settings_.beta1;
        settings.beta2 = settings_.beta2;
        settings.epsilon = settings_.epsilon;
        settings.decay = part.parameter->decay ? settings_.decay : 0;
        settings.grad_scale = step.grad_scale;
        settings.t = step.t;
        ops::adamw(context.stream, range(gradients_.share(b)), range(share.first), range(share.second), range(share.master), range(own),
                   settings);
      }
    }
  }
  gather(context);
}

void ShardedAdamW::publish(Context& context) {
  for (std::size_t b = 0; b < shares_.size(); ++b) {
    const FlatBuffer& buffer = store_.buffers()[b];
    const Tensor own = own_values(buffer, mesh_.replicas(buffer.kind));
    if (own.raw() != shares_[b].master.raw()) ops::copy_into(context.stream, shares_[b].master, own);
  }
  gather(context);
}

void ShardedAdamW::gather(Context& context) {
  std::vector<Work> posted;
  for (const FlatBuffer& buffer : store_.buffers()) {
    Communicator& replicas = mesh_.replicas(buffer.kind);
    if (replicas.size() == 1) continue;
    const Label label{buffer.kind == ParamKind::dense ? kDense : kExpert, layer_of_group(store_, buffer.group)};
    posted.push_back(replicas.all_gather(context.stream, label, own_values(buffer, replicas), buffer.value));
  }
  for (Work& work : posted) work.wait(context.stream);
  store_.changed();
}

}  // namespace yard
