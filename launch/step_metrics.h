#pragma once

#include "launch/trainer.h"
#include "proto/metrics.pb.h"

namespace yard {

/// A step's line of metrics.jsonl. Collective: phases and collectives of all ranks are compared in one gather of fixed size, so that
/// logging cannot hang whatever each rank has recorded (law 14). `flops`: model FLOPs of training on one token.
StepMetrics step_metrics(RankRuntime&, const RunConfig&, double flops, const StepReport&);

/// Bytes of memory that this process holds now.
double resident_bytes();
/// The most that the model's device has held for this rank: blocks of a GPU's memory, else all of the process.
double peak_memory_bytes(RankRuntime&);

}  // namespace yard
