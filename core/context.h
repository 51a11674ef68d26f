#pragma once

#include <cstdint>
#include <functional>

#include "core/profiler.h"
#include "core/tensor/tensor.h"
#include "core/work.h"

namespace yard {

class KeyValueCache;
class RoutingTotals;
class RoutingLog;
class ChoiceOverride;

/// Why a forward pass runs. `recompute` repeats a pass inside backward: it must not count tokens or draw new noise. `evaluate` and `decode`
/// draw no noise. `decode` computes the few newest rows of texts during generation, with GEMMs that read each weight once.
enum class Pass : std::uint8_t { train, recompute, evaluate, decode };

/// The rows of a micro-batch: row i is token i % length of sequence i / length.
struct Tokens {
  Index sequences = 0, length = 0;
  Index first_sequence = 0;        // global number of this rank's first sequence: keys noise
  Index sequences_everywhere = 0;  // sequences of the micro-batch over all ranks: scales auxiliary losses
  Tensor ids;                      // (N) i32; -1 is padding: never routed, never counted
  Tensor positions;                // (N) i32: distance from the start of the document; a row attends to that many rows before it
  Tensor targets;                  // (N) i32; -1 is masked: no loss
  KeyValueCache* cache = nullptr;  // for generation

  Index rows() const noexcept { return sequences * length; }
};

/// Everything that a pass needs besides its rows. Made by the trainer, passed by reference through every module.
struct Context {
  Stream& stream;
  Profiler& profiler;
  const Tokens& tokens;
  Pass pass = Pass::train;
  std::uint64_t seed = 0;
  Index step = 0, micro = 0;
  Index micros = 1;                                 // micro-batches per step: scales auxiliary losses
  RoutingTotals* totals = nullptr;                  // filled in forward, summed over ranks once, read in backward
  RoutingLog* log = nullptr;                        // records routers' choices
  const ChoiceOverride* choice_override = nullptr;  // replaces routers' choices
  std::function<void()> poll = {};                  // called between GEMMs to progress outstanding operations; core does not include comm

  bool training() const noexcept { return pass == Pass::train || pass == Pass::recompute; }
};

}  // namespace yard
