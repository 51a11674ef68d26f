#include "launch/builder.h"

#include "comm/local.h"
#include "core/nn/routers/softmax_top_k.h"
#include "launch/model_from_config.h"
#include "parallel/exchange/exchange.h"
#include "parallel/moe_layer.h"

namespace yard {
namespace {

YARD_COLLECTIVE kRouterState{"router.state"};

LossSettings loss_settings(const RunConfig& config) {
  LossSettings losses;
  losses.balance = static_cast<float>(config.losses().balance());
  losses.z = static_cast<float>(config.losses().z());
  losses.scope = config.losses().scope() == RunConfig::Scope::sequence ? LossSettings::Scope::sequence : LossSettings::Scope::batch;
  losses.convention = config.losses().convention() == RunConfig::Convention::huggingface ? LossSettings::Convention::huggingface
                                                                                         : LossSettings::Convention::megatron;
  return losses;
}

ForcedRouting forced_routing(const RunConfig& config) {
  switch (config.run().routing()) {
    case RunConfig::Routing::balanced:
      return ForcedRouting::balanced;
    case RunConfig::Routing::skewed:
      return ForcedRouting::skewed;
    default:
      return ForcedRouting::natural;
  }
}

std::unique_ptr<Router> make_softmax_top_k(const RouterPlace& place, const RunConfig& config, const SumOverRanks& /*sum*/) {
  const auto& router = config.model().router();
  SoftmaxTopKSettings settings;
  settings.normalize = router.normalize();
  settings.scale = static_cast<float>(router.scale());
  settings.capacity_factor = router.capacity_factor();
  settings.evaluation_capacity = router.evaluation_capacity();
  settings.group_sequences = router.has_group_sequences() ? router.group_sequences() : 1;
  settings.drop = router.drop() == RunConfig::Drop::weight ? ops::DropPolicy::weight : ops::DropPolicy::position;
  settings.jitter = static_cast<float>(router.jitter());
  settings.forced = forced_routing(config);
  settings.skew = static_cast<float>(config.run().skew());
  settings.losses = loss_settings(config);
  return std::make_unique<SoftmaxTopK>(place, settings);
}

std::string kinds_of(const RouterTable& routers) {
  std::string kinds;
  for (const auto& [kind, make] : routers) kinds += (kinds.empty() ? "" : ", ") + kind;
  return kinds;
}

}  // namespace

RouterTable default_routers() {
  return {
      {"softmax_top_k", make_softmax_top_k},
  };
}

void Model::allocate(Stream& stream, Mesh& mesh, bool train) {
  ParameterStore::Settings settings;
  settings.compute = transformer->compute();
  settings.train = train;
  settings.replicas = [&mesh](ParamKind kind) { return static_cast<Index>(mesh.replicas(kind).size()); };
  parameters = std::make_unique<ParameterStore>(
      stream, [this](const auto& see) { visit(see); }, settings);
}

std::unique_ptr<Module> build_moe_layer(const RunConfig& config, Mesh& mesh, Stream& stream, Index layer, Model& model,
                                        const RouterTable& routers) {
  const ModelSettings settings = model_from_config(config);
  const MoeSettings* const found = settings.layer(layer).moe();
  check(found != nullptr, "layer ", layer, " is not a Mixture-of-Experts layer");
  const MoeSettings& moe = *found;
  const ModulePlace at(settings, layer);
  const std::string& kind = config.model().router().kind();
  const auto make_router = routers.find(kind);
  check_input(make_router != routers.end(), "model.router.kind '", kind, "' is not known; this build has ", kinds_of(routers));
  const SumOverRanks sum = [&mesh](Context& context, const Tensor& values) {
    return mesh.world().all_reduce(context.stream, {kRouterState}, values);
  };
  Communicator& group = mesh.along(Axis::expert);
  const std::string prefix = names::layer(layer) + "block_sparse_moe.";
  RouterPlace place;
  place.layer = layer;
  place.moe_layer = static_cast<Index>(model.reports.size());
  place.moe_layers = settings.moe_layers();
  place.width = settings.width;
  place.experts = moe.experts;
  place.top_k = moe.top_k;
  place.deviation = settings.deviation;
  place.name = prefix;
  model.reports.push_back(std::make_shared<RouterReport>(stream, moe.experts));

  MoeLayer::Parts parts;
  parts.router = make_router->second(place, config, sum);
  model.sees_later_tokens = model.sees_later_tokens || parts.router->sees_later_tokens();
  parts.exchange =
      find_exchange(config.exchange().algorithm()).make(group, moe.experts, config.exchange().chunks(), static_cast<int>(layer));
  const Index local = moe.experts / group.size();
  parts.experts = make_experts(moe, at, local * group.rank(), local);
  parts.expert_count = moe.experts;
  if (moe.shared) {
    parts.shared = std::make_unique<SharedExperts>(make_dense_bank(*moe.shared, at, prefix + "shared_experts."),
                                                   moe.shared_gate ? prefix + "shared_expert_gate.weight" : "", at);
  }
  parts.report = model.reports.back();
  parts.keyed = moe.expert.dropout > 0;
  return std::make_unique<MoeLayer>(std::move(parts));
}

Model build_model(const RunConfig& config, Mesh& mesh, Stream& stream, DType compute, const RouterTable& routers) {
  ModelSettings settings = model_from_config(config);
  Model model;
  model.totals = std::make_unique<RoutingTotals>(stream, settings.moe_layers(), config.model().experts());
  const auto make_moe = [&](Index layer) { return build_moe_layer(config, mesh, stream, layer, model, routers); };
  model.transformer = std::make_unique<Transformer>(std::move(settings), compute, make_moe);
  return model;
}

ModelCosts costs_of(const RunConfig& resolved, const RouterTable& routers) {
  EventLog log;
  const auto control = make_self(log, "control");
  Mesh mesh(*control, make_self(log), {1, 1});
  Stream stream{Device{}};
  RunConfig alone = resolved;
  alone.mutable_mesh()->set_expert(1);
  alone.mutable_mesh()->set_data(1);
  return build_model(alone, mesh, stream, DType::f32, routers).transformer->costs();
}

}  // namespace yard
