#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"

namespace yard {

/// Returns the text of `root` on every rank. Collective; takes the control communicator, since texts are host tensors.
std::string broadcast_text(Communicator& control, const std::string& text, int root = 0);

/// Returns the texts of all ranks, in rank order, on every rank. Collective.
std::vector<std::string> gather_texts(Communicator& control, const std::string& mine);

}  // namespace yard
