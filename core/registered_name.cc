#include "core/registered_name.h"

#include <span>

// The linker defines these for sections whose names are identifiers; weak, because a program may define no name.
extern "C" {
// NOLINTBEGIN(readability-identifier-naming,bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp,modernize-avoid-c-arrays)
[[gnu::weak]] extern const yard::RegisteredName __start_yard_phases[];
[[gnu::weak]] extern const yard::RegisteredName __stop_yard_phases[];
[[gnu::weak]] extern const yard::RegisteredName __start_yard_collectives[];
[[gnu::weak]] extern const yard::RegisteredName __stop_yard_collectives[];
// NOLINTEND(readability-identifier-naming,bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp,modernize-avoid-c-arrays)
}

namespace yard {
namespace {

std::vector<std::string_view> sorted(const RegisteredName* first, const RegisteredName* last) {
  std::vector<std::string_view> names(first, last);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

}  // namespace

std::vector<std::string_view> registered_phases() { return sorted(__start_yard_phases, __stop_yard_phases); }
std::vector<std::string_view> registered_collectives() { return sorted(__start_yard_collectives, __stop_yard_collectives); }

}  // namespace yard
