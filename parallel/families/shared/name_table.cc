#include "parallel/families/shared/name_table.h"

namespace yard {
namespace {

/// A name whose layer and expert numbers are replaced by {l} and {e}.
struct Pattern {
  std::string text;
  Index layer = -1, expert = -1;
};

/// "experts.12." becomes "experts.{e}."; returns the number, or -1 where there is none.
Index take_number(std::string& name, const std::string& before, const std::string& sign) {
  const std::size_t at = name.find(before);
  if (at == std::string::npos) return -1;
  const std::size_t begin = at + before.size();
  const std::size_t end = name.find_first_not_of("0123456789", begin);
  if (end == begin || end == std::string::npos || end - begin > 9) return -1;
  const Index number = std::stoll(name.substr(begin, end - begin));
  name.replace(begin, end - begin, sign);
  return number;
}

Pattern pattern_of(const std::string& name) {
  Pattern pattern{name};
  pattern.layer = take_number(pattern.text, "layers.", "{l}");
  pattern.expert = take_number(pattern.text, "experts.", "{e}");
  return pattern;
}

std::string filled(std::string text, const Pattern& numbers) {
  const auto fill = [&](const char* sign, Index number) {
    if (const std::size_t at = text.find(sign); at != std::string::npos) text.replace(at, 3, std::to_string(number));
  };
  fill("{l}", numbers.layer);
  fill("{e}", numbers.expert);
  return text;
}

}  // namespace

std::string NameTable::stored(const std::string& ours) const {
  if (rows_.empty()) return ours;
  const Pattern pattern = pattern_of(ours);
  for (const Row& row : rows_) {
    if (row.ours == pattern.text) return filled(row.theirs, pattern);
  }
  return ours;
}

std::vector<StoredPart> NameTable::places(const std::string& ours) const {
  std::vector<StoredPart> places = {{stored(ours)}};
  const Pattern pattern = pattern_of(ours);
  for (const Alternative& each : alternatives_) {
    if (each.ours != pattern.text) continue;
    places.push_back({filled(each.theirs, pattern), each.by_expert ? pattern.expert : -1, each.part, each.parts});
  }
  return places;
}

}  // namespace yard
