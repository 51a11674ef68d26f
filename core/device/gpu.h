#pragma once

#include <string>

#include "core/device/device.h"

namespace yard {

/// GPUs that this process may use; 0 in a build without the CUDA backend and where there is no driver.
int gpu_count();
/// The version of the CUDA Toolkit that this build has, such as "13.0"; empty in a build without.
std::string gpu_toolkit();
/// What a GPU calls itself, such as "NVIDIA H100 80GB HBM3"; throws where there is none of that number.
std::string gpu_name(Device gpu);

/// CUDA's answers, in gpu.cu.
int gpu_count(Cuda);
std::string gpu_toolkit(Cuda);
std::string gpu_name(Cuda, Device gpu);

}  // namespace yard
