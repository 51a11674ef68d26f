#pragma once

#include <compare>
#include <cstdint>
#include <utility>

#include "core/build_config.h"
#include "core/error.h"

namespace yard {

enum class DeviceType : std::uint8_t { cpu, cuda };

/// Where values live and kernels run.
struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  auto operator<=>(const Device&) const = default;
};

/// Tags that choose a kernel's overload (law 2).
struct Cpu {};
struct Cuda {};

/// Calls `body` with the tag of the device: the only place that knows what was built.
template <class Body>
decltype(auto) dispatch(Device device, Body&& body) {
  if (device.type == DeviceType::cpu) return std::forward<Body>(body)(Cpu{});
  if constexpr (kCudaEnabled) {
    return std::forward<Body>(body)(Cuda{});
  } else {
    fail_input("this build has no CUDA backend; run with run.device=cpu or build the preset 'cuda'");
  }
}

}  // namespace yard
