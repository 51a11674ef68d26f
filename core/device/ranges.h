#pragma once

#include <memory>

#include "core/device/device.h"

namespace yard {

/// Nested named ranges on the timeline of a device's own tools (NVTX, as Nsight Systems shows it). Costs next to nothing while no tool
/// looks.
class Ranges {
 public:
  virtual ~Ranges() = default;
  virtual void push(const char* name) = 0;
  virtual void pop() noexcept = 0;
};

/// Null where a device has no such tools; the CPU's is in ranges.cc, CUDA's in ranges.cu.
std::unique_ptr<Ranges> make_ranges(Cpu);
std::unique_ptr<Ranges> make_ranges(Cuda);
std::unique_ptr<Ranges> make_ranges(Device device);

}  // namespace yard
