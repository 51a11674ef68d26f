#include "core/nn/routing/router_kind.h"

#include <algorithm>

namespace yard {

const RouterKind* find_router(const RouterTable& table, std::string_view name) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const RouterKind& kind) { return kind.name == name; });
  return found == table.end() ? nullptr : &*found;
}

}  // namespace yard
