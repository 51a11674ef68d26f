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

/// Why a forward pass runs: `recompute` repeats one inside backward and must not count or draw noise twice; `evaluate` draws none, and
/// neither does `decode`, whose few rows are the newest of texts that are being continued: it takes products that read each weight once.
enum class Pass : std::uint8_t { train, recompute, evaluate, decode };

/// What the rows of a micro-batch are: row i is position i % length of sequence i / length.
struct Tokens {
  Index sequences = 0, length = 0;
  Index first_sequence = 0;        // the number of this rank's first sequence in the global order: the key of noise
  Index sequences_everywhere = 0;  // of the micro-step over all ranks: the scale of auxiliary losses
  Tensor ids;                      // (N) i32; -1 is padding: never routed, never counted
  Tensor positions;                // (N) i32: distance from the start of the document; a row attends to that many rows before it
  Tensor targets;                  // (N) i32; -1 is masked: no loss
  KeyValueCache* cache = nullptr;  // of a generation under way

  Index rows() const noexcept { return sequences * length; }
};

/// Everything a pass needs beside its rows. Made by the trainer, passed by reference through every module.
struct Context {
  Stream& stream;
  Profiler& profiler;
  const Tokens& tokens;
  Pass pass = Pass::train;
  std::uint64_t seed = 0;
  Index step = 0, micro = 0;
  Index micros = 1;                                 // micro-steps in a step: the scale of auxiliary losses
  RoutingTotals* totals = nullptr;                  // filled in forward, summed over ranks once, read in backward
  RoutingLog* log = nullptr;                        // records choices
  const ChoiceOverride* choice_override = nullptr;  // replaces the choices of routers
  std::function<void()> poll = {};                  // called between products so that transfers go on; core never sees comm

  bool training() const noexcept { return pass == Pass::train || pass == Pass::recompute; }
};

}  // namespace yard
