#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace yard {

/// Text of a file or of the user as a message can hold it: in one line, valid UTF-8, cut to about `most` bytes. Control characters and
/// bytes that are not UTF-8 become \x07.
std::string shown(std::string_view text, std::size_t most = 100);

}  // namespace yard
