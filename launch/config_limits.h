#pragma once

#include "proto/config.pb.h"

namespace yard {

/// Checks every number of a configuration against its own limits, whatever the others are. Throws InputError that names the field, its
/// value and the limits.
void check_limits(const RunConfig&);

/// Refuses what config.proto has a word for and this build does not do yet. Throws InputError that says what there is.
void check_available(const RunConfig&);

}  // namespace yard
