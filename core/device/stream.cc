#include "core/device/stream.h"

namespace yard {

Stream::Stream(Device device) : device_(device) {
  check_input(device.type == DeviceType::cpu, "run.device=cuda needs a build with the CUDA backend; use run.device=cpu");
  allocator_ = make_host_allocator();
}

}  // namespace yard
