#pragma once

#include <istream>
#include <nlohmann/json.hpp>
#include <string_view>

/// The library's templates are compiled once, in json.cc; each file that includes <nlohmann/json.hpp> itself takes seconds longer.
extern template class nlohmann::basic_json<>;

namespace yard {

/// The value that a text is; `is_discarded()` is true of it where the text is not JSON.
nlohmann::json parse_json(std::string_view text);
nlohmann::json parse_json(std::istream&);

}  // namespace yard
