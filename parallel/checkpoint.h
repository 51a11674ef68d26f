#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/nn/parameters.h"
#include "parallel/sharded_adamw.h"

namespace yard {

/// What a checkpoint says of the run beside its tensors.
struct TrainingState {
  Index step = 0;      // steps done
  Index consumed = 0;  // sequences consumed: the position in the data's order
  Index tokens = 0;    // tokens trained on
  Index skipped = 0;   // updates that the guard dropped
  MeshShape mesh;
  std::string precision;
};

/// A folder step-00000100 holds
///   config.textproto                    the configuration as resolved
///   model-0000i-of-0000n.safetensors    values by their logical names, written by the ranks that own them; model.safetensors.index.json
///   optimizer-0000r-of-0000n.safetensors  each rank's share of masters and moments, by buffer
///   state.json                          written last; names every file and its size
/// It is written as step-00000100.tmp and renamed when every rank has succeeded; then `latest` is replaced.
class CheckpointWriter {
 public:
  struct Settings {
    std::string folder;                    // checkpoints/
    Index keep = 3;                        // of the newest ones
    Index keep_every = 0;                  // steps whose checkpoints are never pruned; 0 for none
    std::string config;                    // text of config.textproto
    std::vector<std::string> attachments;  // files copied into every checkpoint: the tokenizer's
  };
  explicit CheckpointWriter(Settings settings) : settings_(std::move(settings)) {}
  /// Collective. Returns the checkpoint's folder. When a rank fails to write (a full disk), every rank throws AgreedError and what was
  /// there before stays.
  std::string save(Context&, Mesh&, ParameterStore&, std::vector<State*> states, ShardedAdamW&, const TrainingState&);

 private:
  void prune(Index newest) const;
  Settings settings_;
};

/// The newest complete checkpoint below a folder, as `latest` names it; empty when there is none.
std::string latest_checkpoint(const std::string& folder);
/// A checkpoint's folder from what a person names: the folder itself, or a run directory whose latest checkpoint it then is. Throws
/// InputError when there is none.
std::string find_checkpoint(const std::string& path);

/// Reads the model's values by name into any layout; each rank reads what it holds. Masters of `optimizer`, when given, take the same
/// values. Throws InputError that names what is missing or has another shape.
void load_model(Stream&, const std::string& folder, ParameterStore&, std::vector<State*> states, ShardedAdamW* optimizer);
/// Reads state.json.
TrainingState load_state(const std::string& folder);
/// Reads this rank's share of the optimizer's state; the layout and the precision must be those it was written in.
void load_optimizer(Stream&, const std::string& folder, Mesh&, ShardedAdamW&);

}  // namespace yard
