#pragma once

#include <map>
#include <memory>
#include <string>

#include "comm/local.h"
#include "core/nn/routing/router_kind.h"
#include "launch/builder.h"
#include "launch/runtime.h"
#include "tests/support/support.h"

namespace yard::test {

/// A configuration from its text, in f32 on one rank unless it says otherwise; unresolved.
RunConfig config_of(const std::string& text);

/// Rows as a batch: positions count from each sequence's start.                                 ids, targets: (B, T) of any integer type
Tokens batch_of(const Tensor& ids, const Tensor& targets = {});

/// A rank with everything that a command makes first.
struct Rank {
  Rank() : control(make_self(log, "control")), runtime(*control) {}
  /// A rank of a local world.
  explicit Rank(Communicator& world) : control(world.split(0, world.rank(), "control")), runtime(*control) {}
  EventLog log;  // of a rank alone
  std::unique_ptr<Communicator> control;
  RankRuntime runtime;
};

/// A whole model and what a trainer does with it, on batches that the test makes.
class Rig {
 public:
  /// On one rank; values are the initial ones of init.seed.
  explicit Rig(const RunConfig& unresolved, DType compute = DType::f32, const RouterTable& routers = router_table());

  const RunConfig& config() const noexcept { return config_; }
  Model& model() noexcept { return model_; }
  Mesh& mesh() noexcept { return *mesh_; }
  Profiler& profiler() noexcept { return rank_.runtime.profiler; }
  ParameterStore& store() { return *model_.parameters; }
  Context context(const Tokens& tokens, Pass pass = Pass::train);

  /// Values and gradients by their logical names; f32 ones are the model's own memory.
  std::map<std::string, Tensor> values();
  std::map<std::string, Tensor> gradients();
  /// Sets a value by its logical name, rounded to its dtype.
  void set(const std::string& name, const Tensor& value);

  /// One micro-step of several, as the trainer takes it: gradients of scale * sum of nats and of the auxiliary losses are added up.
  struct Losses {
    double nats = 0;                 // sum over the targets
    std::vector<double> balance, z;  // of each MoE layer, at coefficient 1
    std::vector<double> counts;      // (MoE layers x experts)
    RoutingSummary routing;          // all that routers report
  };
  Losses micro_step(const Tokens& tokens, double scale, Index micro = 0, Index micros = 1, Index step = 0);
  /// A step of one micro-step from zero gradients, the loss divided by the unmasked targets. nats is their mean then.
  Losses step(const Tokens& tokens);
  Tensor logits(const Tokens& tokens, Pass pass = Pass::evaluate);

 private:
  Rank rank_;
  RunConfig config_;
  std::unique_ptr<Mesh> mesh_;
  Model model_;
};

/// Unmasked targets.
Index targets_of(const Tokens& tokens);

}  // namespace yard::test
