#pragma once

#include <cstdint>
#include <istream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

/// The library's templates are compiled once, in json.cc; each file that includes <nlohmann/json.hpp> itself takes seconds longer.
extern template class nlohmann::basic_json<>;

namespace yard {

/// Parses JSON; the result `is_discarded()` where the text is not JSON, or is nested more than 1000 deep, which would exhaust the stack of
/// whatever copies or writes it.
nlohmann::json parse_json(std::string_view text);
nlohmann::json parse_json(std::istream&);
/// The same; where the text is not JSON, `wrong` says why, with the column (in bytes, from 1), and the line if there are several.
nlohmann::json parse_json(std::string_view text, std::string& wrong);

/// The JSON object in a file. Throws InputError, naming the file, when it cannot be read or holds anything else.
nlohmann::json read_json_object(const std::string& path);

/// A value as JSON text: numbers that are not finite are null, and bytes of strings that are not UTF-8 (paths may hold any) are U+FFFD.
/// `indent` -1 is one line.
std::string json_text(const nlohmann::json& value, int indent = -1);
std::string json_text(const nlohmann::ordered_json& value, int indent = -1);

/// A value as a message can hold it: JSON text, shortened as `shown` does.
std::string shown_json(const nlohmann::json& value);

/// A whole number, or nothing for other values and numbers beyond 64 bits.
std::optional<std::int64_t> whole_number(const nlohmann::json& value);

}  // namespace yard
