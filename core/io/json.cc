#include "core/io/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <limits>

#include "core/data/utf8.h"
#include "core/error.h"
#include "core/io/file.h"
#include "core/shown.h"

template class nlohmann::basic_json<>;

namespace yard {

namespace {

constexpr std::size_t kDeepest = 1000;

bool too_deep(std::string_view text) {
  // Fewer brackets than that cannot be too deep, wherever they are.
  const auto opening = [](char c) { return c == '[' || c == '{'; };
  if (static_cast<std::size_t>(std::count_if(text.begin(), text.end(), opening)) <= kDeepest) return false;
  std::size_t depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (opening(c)) {
      if (++depth > kDeepest) return true;
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return false;
}

nlohmann::json discarded() { return nlohmann::json(nlohmann::json::value_t::discarded); }

/// "column 12", or "line 3, column 12" of a text with several lines.
std::string place_of(std::string_view text, std::size_t byte) {
  const auto lines = std::count(text.begin(), text.end(), '\n');
  const std::size_t newline = text.substr(0, byte).rfind('\n');
  const std::size_t column = newline == std::string_view::npos ? byte + 1 : byte - newline;
  const auto line = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(byte), '\n') + 1;
  return lines == 0 ? fmt::format("column {}", column) : fmt::format("line {}, column {}", line, column);
}

}  // namespace

nlohmann::json parse_json(std::string_view text) { return too_deep(text) ? discarded() : nlohmann::json::parse(text, nullptr, false); }

nlohmann::json parse_json(std::istream& stream) { return parse_json(std::string(std::istreambuf_iterator<char>(stream), {})); }

std::string json_text(const nlohmann::json& value, int indent) {
  return value.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string json_text(const nlohmann::ordered_json& value, int indent) {
  return value.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

nlohmann::json parse_json(std::string_view text, std::string& wrong) {
  if (const std::size_t valid = utf8_prefix(text); valid < text.size()) {
    wrong = fmt::format("byte 0x{:02X} at {} is not UTF-8", static_cast<unsigned char>(text[valid]), place_of(text, valid));
    return discarded();
  }
  if (too_deep(text)) {
    wrong = fmt::format("it is nested more than {} deep", kDeepest);
    return discarded();
  }
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 12: syntax error while parsing value - invalid literal; ..."
    const std::string sentence = error.what();
    const std::size_t place = sentence.find(text.find('\n') == std::string_view::npos ? "column " : "line ");
    wrong = shown(place == std::string::npos ? sentence : "at " + sentence.substr(place), 300);
    return discarded();
  }
}

nlohmann::json read_json_object(const std::string& path) {
  std::string wrong;
  nlohmann::json content = parse_json(read_text_file(path), wrong);
  check_input(content.is_object(), "", path, " is not a JSON object", wrong.empty() ? "" : ": " + wrong);
  return content;
}

std::string shown_json(const nlohmann::json& value) { return shown(json_text(value)); }

std::optional<std::int64_t> whole_number(const nlohmann::json& value) {
  constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > kLargest)) return std::nullopt;
  return value.get<std::int64_t>();
}

}  // namespace yard
