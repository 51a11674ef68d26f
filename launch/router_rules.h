#pragma once

#include "core/nn/routing/router_kind.h"
#include "proto/config.pb.h"

namespace yard {

/// The losses block of the configuration, for routers.
LossSettings loss_settings(const RunConfig&);

/// The kind of router that model.router.kind names. Throws InputError with a suggestion if the table has no such kind.
const RouterKind& router_kind(const RunConfig&, const RouterTable&);

/// Fills the fields of model.router that depend on others and checks its rules. Throws InputError for values that break a rule, and for
/// fields that are set to a value other than their default but that the kind does not use. `ranks`: number of ranks of the job.
void resolve_router(RunConfig&, int ranks, const RouterTable&);

}  // namespace yard
