#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/nn/routing/router_kind.h"
#include "core/nn/transformer.h"
#include "parallel/mesh.h"
#include "proto/config.pb.h"

namespace yard {

/// A model whose experts are spread over a mesh, with what its layers report.
struct Model {
  std::unique_ptr<Transformer> transformer;
  std::unique_ptr<RoutingReports> reports;  // of the MoE layers
  std::unique_ptr<RoutingTotals> totals;
  std::unique_ptr<ParameterStore> parameters;  // empty until `allocate`
  bool sees_later_tokens = false;              // whether, in training, some layer's choice for a token depends on tokens after it

  void visit(const std::function<void(Index group, Parameter&)>& see) { transformer->visit(see); }
  /// Gives the parameters their memory; values are uninitialised.
  void allocate(Stream&, Mesh&, bool train);
};

/// Turns a resolved configuration into a model on this rank of the mesh, without memory for its parameters. Throws InputError for what the
/// table does not know.
Model build_model(const RunConfig& resolved, Mesh&, Stream&, DType compute, const RouterTable& routers = router_table());

/// The costs of a configuration's model, without allocating its parameters. Throws InputError like build_model.
ModelCosts costs_of(const RunConfig& resolved, const RouterTable& routers = router_table());

/// Builds the Mixture-of-Experts feed-forward of one layer; its report is added to the model's reports.
std::unique_ptr<Module> build_moe_layer(const RunConfig& resolved, Mesh&, Stream&, Index layer, Model&,
                                        const RouterTable& routers = router_table());

}  // namespace yard
