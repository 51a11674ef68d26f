#include "core/io/json.h"

template class nlohmann::basic_json<>;

namespace yard {

nlohmann::json parse_json(std::string_view text) { return nlohmann::json::parse(text, nullptr, false); }

nlohmann::json parse_json(std::istream& stream) { return nlohmann::json::parse(stream, nullptr, false); }

}  // namespace yard
