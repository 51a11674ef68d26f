#pragma once

#include <string>

#include "core/device/device.h"

namespace yard {

/// GPUs that this process may use; 0 in a build without the CUDA backend and where there is no driver.
int gpu_count();
/// What a GPU calls itself, such as "NVIDIA H100 80GB HBM3"; throws where there is none of that number.
std::string gpu_name(Device gpu);

/// CUDA's answers, in gpu.cu.
int gpu_count(Cuda);
std::string gpu_name(Cuda, Device gpu);

}  // namespace yard
