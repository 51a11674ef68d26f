#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "launch/step_metrics.h"
#include "launch/trainer.h"
#include "tests/support/rig.h"

namespace yard::test {

/// Ids that a small model can learn something of: each depends on the one before it.
std::shared_ptr<const TokenStream> small_text(Index tokens, int vocabulary);

/// A trainer on one rank with all that it stands on.
class TrainerRig {
 public:
  TrainerRig(Communicator& world, const RunConfig& unresolved, std::shared_ptr<const TokenStream> data, MeshShape shape,
             const RouterTable& routers = router_table(), TrainHooks hooks = {});
  /// On one rank.
  TrainerRig(const RunConfig& unresolved, std::shared_ptr<const TokenStream> data, const RouterTable& routers = router_table(),
             TrainHooks hooks = {});
  Trainer& operator*() noexcept { return *trainer_; }
  Trainer* operator->() noexcept { return trainer_.get(); }
  Mesh& mesh() noexcept { return *mesh_; }
  RankRuntime& runtime() noexcept { return rank_.runtime; }
  const RunConfig& config() const noexcept { return config_; }  // resolved
  /// The metrics that a step is logged with. Collective.
  StepMetrics metrics(const StepReport& report) { return step_metrics(rank_.runtime, config_, 1, report); }
  /// The values of the parameters that this rank holds, by their logical names.
  std::map<std::string, std::vector<double>> values();

 private:
  void make(const RunConfig& unresolved, std::shared_ptr<const TokenStream> data, MeshShape shape, const RouterTable& routers,
            TrainHooks hooks);
  Rank rank_;
  RunConfig config_;
  std::unique_ptr<Mesh> mesh_;
  std::unique_ptr<Trainer> trainer_;
};

/// For checkpoints of a run of this configuration in a folder.
CheckpointWriter::Settings writer_settings(const std::string& folder, const RunConfig& unresolved,
                                           const RouterTable& routers = router_table());

/// What a run on a layout did: reports of its steps, and the values of all parameters at the end, wherever they lie.
struct LayoutRun {
  std::vector<StepReport> steps;
  std::map<std::string, std::vector<double>> values;
};
/// Trains some steps on a world of threads. Throws when replicas of a parameter end with different values.
LayoutRun run_layout(const RunConfig& unresolved, const std::shared_ptr<const TokenStream>& data, MeshShape shape, Index steps);

}  // namespace yard::test
