#include "core/device/gpu.h"

#include "core/device/cuda.h"

namespace yard {

int gpu_count(Cuda) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess) return devices;
  (void)cudaGetLastError();  // no driver, or none that is new enough: nothing to compute on
  return 0;
}

std::string gpu_toolkit(Cuda) { return std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10); }

std::string gpu_name(Cuda, Device gpu) {
  cudaDeviceProp properties{};
  cuda::check_cuda(cudaGetDeviceProperties(&properties, gpu.index), "asking GPU ", gpu.index, " for its name");
  return properties.name;
}

}  // namespace yard
