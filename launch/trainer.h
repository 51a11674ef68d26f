#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/data/loader.h"
#include "launch/builder.h"
#include "launch/evaluation.h"
#include "launch/guard.h"
#include "launch/runtime.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/gradients.h"
#include "parallel/sharded_adamw.h"

namespace yard {

/// The results of one optimizer step: equal on every rank, except for phases and collectives.
struct StepReport {
  Index step = 0;    // steps done, this one included
  Index tokens = 0;  // trained on so far
  double loss = 0;
  RoutingSummary routing;        // auxiliary losses at coefficient 1, and other values that routers report
  GradientReducer::Norms norms;  // before clipping
  double learning_rate = 0;
  std::string skipped;      // why the guard dropped the update; empty when it was done
  Index skipped_steps = 0;  // of the whole run so far
  double seconds = 0;
  double tokens_per_second = 0;
  std::vector<std::vector<Index>> tokens_per_expert;  // of each MoE layer, over all ranks and micro-batches
  Profiler::Phases phases;                            // of this rank
  std::vector<CollectiveRecord> collectives;          // of this rank: those that completed since the last report
};

/// Who wants to look into a step: verify-layout does.
struct TrainHooks {
  RoutingLog* log = nullptr;
  /// When gradients have been summed and before the optimizer uses them; what it changes is what the step goes on with.
  std::function<void(StepReport&, ParameterStore&, GradientReducer&)> gradients;
};

/// A model in training on this rank: repeats steps. The layout does not change what it computes (design, section 7).
class Trainer {
 public:
  /// Collective. Values are initial ones of init.seed until something is loaded.
  Trainer(RankRuntime&, Mesh&, const RunConfig& resolved, DType compute, std::shared_ptr<const TokenStream> data, std::int32_t end_of_text,
          TrainHooks hooks = {}, const RouterTable& routers = router_table());

  /// One optimizer step. Throws AgreedError when the guard has dropped more updates in a row than it may; nothing has been updated then.
  StepReport step();
  /// How well the model predicts the windows of `data`; `tokenizer` may be null.
  Evaluation validate(const Validation& data, const Tokenizer* tokenizer);

  Index steps_done() const noexcept { return state_.step(); }
  Model& model() noexcept { return model_; }
  const Loader& loader() const noexcept { return *loader_; }

  /// Takes a checkpoint of the run as it is now.
  void save(CheckpointWriter&);
  /// Waits until the last one is written.
  void finish(CheckpointWriter&);
  /// Goes on where a checkpoint was written, whatever its layout was.
  void resume(const std::string& checkpoint);
  /// Takes a checkpoint's weights only.
  void start_from(const std::string& checkpoint);

 private:
  void micro_step(Index micro, double scale);
  void sum_reports(StepReport&);
  [[noreturn]] void give_up(const StepReport&);
  std::string first_bad_values();
  Context outside_of_steps(const Tokens& none) { return Context{runtime_.stream(), runtime_.profiler, none}; }
  std::vector<State*> states();

  RankRuntime& runtime_;
  Mesh& mesh_;
  RunConfig config_;
  TrainHooks hooks_;
  Model model_;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<GradientReducer> gradients_;
  std::unique_ptr<ShardedAdamW> optimizer_;
  Guard guard_;
  CheckpointState state_;
  Tensor step_sums_;  // (1 + values that routers report) f64: nats / targets; then model_.reports
};

}  // namespace yard
