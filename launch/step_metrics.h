#pragma once

#include "launch/trainer.h"
#include "proto/metrics.pb.h"

namespace yard {

/// What a step is reported as. Collective: phases and transfers of all ranks are compared in one gather of fixed size, so that logging
/// cannot hang whatever each rank has seen (law 14).
StepMetrics step_metrics(RankRuntime&, Mesh&, const RunConfig&, const StepReport&);

/// Bytes of memory that this process holds now, and the most it has held.
double resident_bytes();
double peak_resident_bytes();

}  // namespace yard
