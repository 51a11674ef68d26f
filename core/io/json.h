#pragma once

#include <istream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

/// The library's templates are compiled once, in json.cc; each file that includes <nlohmann/json.hpp> itself takes seconds longer.
extern template class nlohmann::basic_json<>;

namespace yard {

/// The value that a text is; `is_discarded()` is true of it where the text is not JSON.
nlohmann::json parse_json(std::string_view text);
nlohmann::json parse_json(std::istream&);
/// The same; where the text is not JSON, `wrong` says why, with the column (in bytes, from 1).
nlohmann::json parse_json(std::string_view text, std::string& wrong);

/// A value as JSON text: numbers that are not finite are null, and bytes of strings that are not UTF-8 (paths may hold any) are U+FFFD.
/// `indent` -1 is one line.
std::string json_text(const nlohmann::json& value, int indent = -1);
std::string json_text(const nlohmann::ordered_json& value, int indent = -1);

}  // namespace yard
