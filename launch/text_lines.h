#pragma once

#include <string>
#include <string_view>

namespace yard {

/// The first line of a text, with its end of line.
std::string_view line_of(std::string_view text);
/// A line without its end of line, LF or CR LF.
std::string_view without_line_end(std::string_view line);
/// A text with LF where it has CR LF.
std::string with_unix_line_ends(std::string_view text);
/// A text without the byte-order mark of UTF-8 that some editors write first. Throws InputError, naming `file`, for a text in UTF-16 or
/// UTF-32, which its byte-order mark tells.
std::string_view without_byte_order_mark(std::string_view text, const std::string& file);

}  // namespace yard
