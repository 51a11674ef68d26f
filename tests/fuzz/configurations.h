#pragma once

#include "proto/config.pb.h"

namespace yard::fuzz {

/// The configuration as a command resolves it, with the names of all routers and exchange algorithms; throws InputError as that does.
RunConfig resolved(const RunConfig&);
/// Ends the program unless a resolved configuration stays what it is when it is resolved again, or written as text and read.
void expect_resolved(const RunConfig&);

}  // namespace yard::fuzz
