#pragma once

#include "launch/trainer.h"
#include "proto/metrics.pb.h"

namespace yard {

/// One step's line of metrics.jsonl. Collective: phases and collectives of all ranks are gathered in one all-gather of fixed size, so that
/// logging cannot hang, whatever each rank has recorded (law 14). `flops`: training model FLOPs per token.
StepMetrics step_metrics(RankRuntime&, const RunConfig&, double flops, const StepReport&);

/// The current resident set of this process, in bytes.
double resident_bytes();
/// The peak memory of this rank, in bytes: allocated device memory if the model is on a GPU, else the peak resident set of the process.
double peak_memory_bytes(RankRuntime&);

}  // namespace yard
