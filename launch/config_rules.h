#pragma once

#include "proto/config.pb.h"

namespace yard {

/// The configuration with every default filled in, also those that depend on other fields and on the number of ranks, and every rule
/// checked. Throws InputError with one sentence that names the fields, their values and what would be right. Looks at no file; `auto` of
/// run.precision and 0 of run.threads stay, since only the machine can tell. Resolving a resolved configuration changes nothing.
RunConfig resolve(RunConfig, int ranks);

/// What training needs beside that: data.train is given. Throws InputError.
void check_trainable(const RunConfig& resolved);

}  // namespace yard
