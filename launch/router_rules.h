#pragma once

#include "core/nn/routing/router_kind.h"
#include "proto/config.pb.h"

namespace yard {

/// losses, as routers take them.
LossSettings loss_settings(const RunConfig&);

/// The kind of router that model.router.kind names. Throws InputError with a suggestion where the table has none of that name.
const RouterKind& router_kind(const RunConfig&, const RouterTable&);

/// Fills the fields of model.router that depend on others and checks its rules. Rejects fields that the kind does not use and that are not
/// at their default. Throws InputError.
void resolve_router(RunConfig&, int ranks, const RouterTable&);

}  // namespace yard
