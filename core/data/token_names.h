#pragma once

#include <string>
#include <vector>

namespace yard {

/// The token files that data.train and the like name, in the order in which they are read: a file, a Megatron prefix (PREFIX.bin and
/// PREFIX.idx), a pattern with '*', '?' or '[...]' (in sorted order; a Megatron pair is one file), or several of these with commas between
/// them. A name that exists is never a pattern or a list; a backslash takes the meaning from the character after it.
/// Throws InputError when nothing is named or matched, when a pattern matches an unfinished file or an index without its tokens, and when
/// two names of the list are of the same file, by whatever path.
std::vector<std::string> token_file_names(const std::string& names);

}  // namespace yard
