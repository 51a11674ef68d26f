#include "launch/builder.h"

#include "comm/local.h"
#include "core/nn/routing/forced_routing.h"
#include "launch/model_from_config.h"
#include "launch/proto_settings.h"
#include "launch/router_rules.h"
#include "parallel/exchange/exchange.h"
#include "parallel/moe_layer.h"

namespace yard {
namespace {

YARD_COLLECTIVE kRouterState{"router.state"};

/// Collectives over all ranks, for routers that keep state of their own.
Everywhere everywhere(Mesh& mesh) {
  Everywhere all;
  all.rank = mesh.rank();
  all.ranks = mesh.size();
  all.sum = [&mesh](Context& context, const Tensor& values) { return mesh.world().all_reduce(context.stream, {kRouterState}, values); };
  all.gather = [&mesh](Context& context, const Tensor& own, const Tensor& every) {
    return mesh.world().all_gather(context.stream, {kRouterState}, own, every);
  };
  return all;
}

RouterPlace place_of(const RunConfig& config, const ModelSettings& settings, Index layer, Index moe_layer) {
  RouterPlace place;
  place.layer = layer;
  place.moe_layer = moe_layer;
  place.moe_layers = settings.moe_layers();
  place.width = settings.width;
  place.experts = settings.layer(layer).moe()->experts;
  place.top_k = settings.layer(layer).moe()->top_k;
  place.vocabulary = settings.vocabulary;
  place.deviation = settings.deviation;
  place.seed = config.init().seed();
  place.name = names::layer(layer) + "block_sparse_moe.";
  place.losses = loss_settings(config);
  return place;
}

std::unique_ptr<Router> make_router(const RunConfig& config, Mesh& mesh, Stream& stream, const RouterPlace& place, RouterReport& report,
                                    const RouterTable& routers) {
  RunConfig::Router block = config.model().router();
  const ProtoSettings settings(block, "model.router");
  auto router = router_kind(config, routers).make({place, settings, stream, report, everywhere(mesh)});
  if (config.run().routing() == RunConfig::Routing::natural) return router;
  const bool skewed = config.run().routing() == RunConfig::Routing::skewed;
  return std::make_unique<ForcedRouting>(std::move(router), skewed ? static_cast<float>(config.run().skew()) : 0.0F);
}

}  // namespace

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
  Communicator& group = mesh.along(Axis::expert);
  const RouterPlace place = place_of(config, settings, layer, model.reports->layers());
  const std::string& prefix = place.name;

  MoeLayer::Parts parts;
  parts.router = make_router(config, mesh, stream, place, model.reports->add_layer(), routers);
  parts.moe_layer = place.moe_layer;
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
  parts.keyed = moe.expert.dropout > 0;
  return std::make_unique<MoeLayer>(std::move(parts));
}

Model build_model(const RunConfig& config, Mesh& mesh, Stream& stream, DType compute, const RouterTable& routers) {
  ModelSettings settings = model_from_config(config);
  Model model;
  model.reports = std::make_unique<RoutingReports>();
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
