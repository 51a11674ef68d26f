#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/nn/routers/router.h"
#include "core/nn/transformer.h"
#include "parallel/mesh.h"
#include "proto/config.pb.h"

namespace yard {

/// Makes the router of one layer from the configuration; `sum` adds a tensor up over all ranks, for state that is not learned by gradient.
using MakeRouter = std::function<std::unique_ptr<Router>(const RouterPlace&, const RunConfig&, const SumOverRanks& sum)>;
/// Every kind of router by the name that model.router.kind takes. To add one: write its file in core/nn/routers, and its line here.
using RouterTable = std::map<std::string, MakeRouter>;
RouterTable default_routers();

/// A model whose experts are spread over a mesh, with what its layers report.
struct Model {
  std::unique_ptr<Transformer> transformer;
  std::vector<std::shared_ptr<RouterReport>> reports;  // of each MoE layer
  std::unique_ptr<RoutingTotals> totals;
  std::unique_ptr<ParameterStore> parameters;  // empty until `allocate`
  bool sees_later_tokens = false;              // whether, in training, some layer's choice for a token depends on tokens after it

  void visit(const std::function<void(Index group, Parameter&)>& see) { transformer->visit(see); }
  /// Gives the parameters their memory; values are uninitialised.
  void allocate(Stream&, Mesh&, bool train);
};

/// Turns a resolved configuration into a model on this rank of the mesh, without memory for its parameters. Throws InputError for what the
/// table does not know.
Model build_model(const RunConfig& resolved, Mesh&, Stream&, DType compute, const RouterTable& routers = default_routers());

/// The costs of a configuration's model, whose parameters get no memory. Throws InputError as build_model does.
ModelCosts costs_of(const RunConfig& resolved, const RouterTable& routers = default_routers());

/// One Mixture-of-Experts feed-forward of it, whose report becomes the model's next.
std::unique_ptr<Module> build_moe_layer(const RunConfig& resolved, Mesh&, Stream&, Index layer, Model&,
                                        const RouterTable& routers = default_routers());

}  // namespace yard
