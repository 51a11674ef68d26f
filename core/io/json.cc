#include "core/io/json.h"

#include <fmt/format.h>

#include "core/data/utf8.h"

template class nlohmann::basic_json<>;

namespace yard {

nlohmann::json parse_json(std::string_view text) { return nlohmann::json::parse(text, nullptr, false); }

nlohmann::json parse_json(std::istream& stream) { return nlohmann::json::parse(stream, nullptr, false); }

std::string json_text(const nlohmann::json& value, int indent) {
  return value.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string json_text(const nlohmann::ordered_json& value, int indent) {
  return value.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

nlohmann::json parse_json(std::string_view text, std::string& wrong) {
  if (const std::size_t valid = utf8_prefix(text); valid < text.size()) {
    wrong = fmt::format("byte 0x{:02X} at column {} is not UTF-8", static_cast<unsigned char>(text[valid]), valid + 1);
    return nlohmann::json(nlohmann::json::value_t::discarded);
  }
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 12: syntax error while parsing value - invalid literal; ..."
    const std::string sentence = error.what();
    const std::size_t column = sentence.find("column ");
    wrong = column == std::string::npos ? sentence : "at " + sentence.substr(column);
    for (char& c : wrong) c = static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    if (wrong.size() > 300) wrong = wrong.substr(0, utf8_prefix(std::string_view(wrong).substr(0, 300))) + "...";
    return nlohmann::json(nlohmann::json::value_t::discarded);
  }
}

}  // namespace yard
