#include "launch/text_lines.h"

#include "core/error.h"

namespace yard {

std::string_view line_of(std::string_view text) {
  const std::size_t newline = text.find('\n');
  return text.substr(0, newline == std::string_view::npos ? text.size() : newline + 1);
}

std::string_view without_line_end(std::string_view line) {
  if (!line.ends_with('\n')) return line;
  line.remove_suffix(1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

std::string with_unix_line_ends(std::string_view text) {
  std::string result;
  for (std::size_t at = text.find("\r\n"); at != std::string_view::npos; at = text.find("\r\n")) {
    result += text.substr(0, at);
    text.remove_prefix(at + 1);
  }
  return result += text;
}

std::string_view without_byte_order_mark(std::string_view text, const std::string& file) {
  const bool utf32 = text.starts_with(std::string_view("\xff\xfe\0\0", 4)) || text.starts_with(std::string_view("\0\0\xfe\xff", 4));
  const bool utf16 = text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff");
  const char* const encoding = utf32 ? "UTF-32" : "UTF-16";
  check_input(!utf32 && !utf16, "", file, " begins with the byte-order mark of ", encoding, ": convert it first (iconv -f ", encoding,
              " -t UTF-8)");
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  return text;
}

}  // namespace yard
