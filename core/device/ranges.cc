#include "core/device/ranges.h"

namespace yard {

std::unique_ptr<Ranges> make_ranges(Cpu) { return nullptr; }

std::unique_ptr<Ranges> make_ranges(Device device) {
  return dispatch(device, [](auto on) { return make_ranges(on); });
}

}  // namespace yard
