#include "core/device/gpu.h"

namespace yard {

int gpu_count() {
  if constexpr (kCudaEnabled) return gpu_count(Cuda{});
  return 0;
}

std::string gpu_toolkit() {
  if constexpr (kCudaEnabled) return gpu_toolkit(Cuda{});
  return {};
}

std::string gpu_name(Device gpu) {
  if constexpr (kCudaEnabled) return gpu_name(Cuda{}, gpu);
  fail("GPU ", gpu.index, " was asked for its name, but this build has no CUDA backend");
}

}  // namespace yard
