#pragma once

#include <memory>

#include "launch/planted_error.h"
#include "launch/probe_files.h"
#include "launch/trainer.h"

namespace yard {

/// Writes down what a run computes, on every rank its own part, for verify-layout to compare.
class Probe final : public RoutingLog {
 public:
  /// The folder must exist.
  Probe(const std::string& folder, Mesh&);
  /// What the trainer is made from: the resolved configuration, unless an error is planted.
  RunConfig config(RunConfig resolved);
  /// For the trainer; the probe must outlive it.
  TrainHooks hooks();
  /// After each of the trainer's steps.
  void stepped(Model&);
  void finish() { writer_.finish(); }

  void record(const Context&, Index moe_layer, const Routing&) override;

 private:
  void gradients(StepReport&, ParameterStore&, GradientReducer&);
  Mesh& mesh_;
  ProbeWriter writer_;
  PlantedError planted_;
};

}  // namespace yard
