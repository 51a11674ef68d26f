#pragma once

#include <string>

#include "core/data/tokenizer.h"
#include "core/nn/routing/router_kind.h"
#include "proto/config.pb.h"

namespace yard {

/// The configuration with every default filled in, also those that depend on other fields and on the number of ranks, and every rule
/// checked. Throws InputError with one sentence that names the fields, their values and what would be right. Looks at no file; `auto` of
/// run.precision and 0 of run.threads stay, since only the machine can tell. Resolving a resolved configuration changes nothing.
/// `routers`: the kinds that model.router.kind may name, whose rules are checked.
RunConfig resolve(RunConfig, int ranks, const RouterTable& routers = router_table());

/// What training needs beside that: data.train is given. Throws InputError.
void check_trainable(const RunConfig& resolved);

/// Throws InputError when a tokenizer, called `name`, has more ids than model.vocabulary.
void check_tokenizer_fits(const Tokenizer&, const std::string& name, const RunConfig& resolved);

}  // namespace yard
