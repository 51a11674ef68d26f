#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"

namespace yard {

/// Every rank has the text of `root`. Collective. Texts travel through host memory, wherever the ranks compute.
std::string broadcast_text(Communicator&, Profiler&, const std::string& text, int root = 0);

/// The texts of all ranks in their order, on every rank. Collective.
std::vector<std::string> gather_texts(Communicator&, Profiler&, const std::string& mine);

}  // namespace yard
