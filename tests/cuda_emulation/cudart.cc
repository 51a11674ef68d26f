// The functions of the CUDA runtime that the product uses, under their names and signatures of the toolkit's headers.

#include <cuda_runtime.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/cuda_emulation/language.h"
#include "tests/cuda_emulation/options.h"
#include "tests/cuda_emulation/queues.h"

struct CUmemPoolHandle_st {
  std::uint64_t release_threshold = 0;
};

namespace yard::emulation {
namespace {

thread_local cudaError_t last_error = cudaSuccess;

/// An error stays until cudaGetLastError takes it.
cudaError_t noted(cudaError_t code) {
  if (code != cudaSuccess) last_error = code;
  return code;
}

constexpr int kDevices = 1;

CUmemPoolHandle_st& pool() {
  static CUmemPoolHandle_st result;
  return result;
}

enum class Side : std::uint8_t { device, pinned, host };

Side side_of(const void* address) {
  if (Gpu::get().memory.holds(address)) return Side::device;
  return Gpu::get().pinned.holds(address) ? Side::pinned : Side::host;
}

bool kind_fits(cudaMemcpyKind kind, bool to_device, bool from_device) {
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
      return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
      return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
      return to_device && from_device;
    default:
      return kind == cudaMemcpyDefault;
  }
}

cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (to == nullptr || from == nullptr) return cudaErrorInvalidValue;
  Gpu& gpu = Gpu::get();
  const Side target = side_of(to);
  const Side source = side_of(from);
  if (!kind_fits(kind, target == Side::device, source == Side::device)) return cudaErrorInvalidMemcpyDirection;
  if (target == Side::device && !gpu.memory.within_block(to, bytes)) return cudaErrorInvalidValue;
  if (source == Side::device && !gpu.memory.within_block(from, bytes)) return cudaErrorInvalidValue;
  const auto* first = static_cast<const std::byte*>(from);
  if (source == Side::host) {
    // Ordinary memory is taken at once: its owner may change it when the call returns.
    auto taken = std::make_shared<std::vector<std::byte>>(first, first + bytes);
    gpu.enqueue(stream, [=] { std::memcpy(to, taken->data(), bytes); });
  } else {
    HostRange host;
    if (source == Side::pinned) host = {first, bytes};
    if (target == Side::pinned) {
      host = {static_cast<const std::byte*>(to), bytes};
      if (!gpu.touches(to, bytes)) std::memset(to, 0xff, bytes);  // who reads too early finds NaN
    }
    gpu.enqueue(
        stream, [=] { std::memcpy(to, from, bytes); }, host);
  }
  if (target == Side::host) gpu.finish(stream);  // into ordinary memory the call waits
  return cudaSuccess;
}

}  // namespace

/// What launching a kernel reports.
cudaError_t note_launch(dim3 grid, dim3 block) {
  const bool threads = block.x > 0 && block.y > 0 && block.z > 0 && block.x <= 1024 && block.y <= 1024 && block.z <= 64 &&
                       static_cast<std::uint64_t>(block.x) * block.y * block.z <= 1024;
  const bool blocks = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffU && grid.y <= 0xffffU && grid.z <= 0xffffU;
  return noted(threads && blocks ? cudaSuccess : cudaErrorInvalidConfiguration);
}

}  // namespace yard::emulation

using yard::emulation::Gpu;
using yard::emulation::noted;
using Lock = std::lock_guard<std::recursive_mutex>;

extern "C" {

cudaError_t cudaGetLastError() { return std::exchange(yard::emulation::last_error, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidMemcpyDirection:
      return "invalid copy direction for memcpy";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
    default:
      return "unrecognized error code";
  }
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = yard::emulation::kDevices;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (properties == nullptr) return noted(cudaErrorInvalidValue);
  if (device < 0 || device >= yard::emulation::kDevices) return noted(cudaErrorInvalidDevice);
  *properties = {};
  std::strcpy(properties->name, "emulated GPU");
  properties->major = 9;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return noted(device >= 0 && device < yard::emulation::kDevices ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* memPool, int device) {
  if (device < 0 || device >= yard::emulation::kDevices) return noted(cudaErrorInvalidDevice);
  *memPool = &yard::emulation::pool();
  return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t memPool, enum cudaMemPoolAttr attr, void* value) {
  if (memPool != &yard::emulation::pool() || attr != cudaMemPoolAttrReleaseThreshold) return noted(cudaErrorInvalidValue);
  memPool->release_threshold = *static_cast<std::uint64_t*>(value);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* pStream, unsigned int flags) {
  if (flags != cudaStreamNonBlocking && flags != cudaStreamDefault) return noted(cudaErrorInvalidValue);
  const Lock lock(Gpu::get().mutex);
  *pStream = Gpu::get().make_stream();
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return noted(cudaErrorInvalidResourceHandle);
  const Lock lock(Gpu::get().mutex);
  Gpu::get().destroy_stream(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(Gpu::get().mutex);
  Gpu::get().finish(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags) {
  if (event == nullptr) return noted(cudaErrorInvalidResourceHandle);
  if (flags != 0) return noted(cudaErrorInvalidValue);
  const Lock lock(Gpu::get().mutex);
  Gpu::get().wait(stream, event);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  if ((flags & ~static_cast<unsigned>(cudaEventBlockingSync | cudaEventDisableTiming)) != 0) return noted(cudaErrorInvalidValue);
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (event == nullptr) return noted(cudaErrorInvalidResourceHandle);
  const Lock lock(Gpu::get().mutex);
  Gpu::get().record(stream, event);
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return noted(cudaErrorInvalidResourceHandle);
  const Lock lock(Gpu::get().mutex);
  if (event->latest != nullptr) Gpu::get().finish(*event->latest);
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event == nullptr) return noted(cudaErrorInvalidResourceHandle);
  const Lock lock(Gpu::get().mutex);
  if (event->latest == nullptr || event->latest->reached) return cudaSuccess;
  Gpu::get().step(event->latest->stream);
  return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  if (start == nullptr || end == nullptr || start->latest == nullptr || end->latest == nullptr)
    return noted(cudaErrorInvalidResourceHandle);
  const Lock lock(Gpu::get().mutex);
  if (!start->latest->reached || !end->latest->reached) return noted(cudaErrorNotReady);
  *ms = std::chrono::duration<float, std::milli>(end->latest->when - start->latest->when).count();
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** devPtr, size_t size, cudaStream_t hStream) {
  const Lock lock(Gpu::get().mutex);
  void* block = Gpu::get().memory.reserve(size);
  if (block == nullptr) return noted(cudaErrorMemoryAllocation);
  Gpu::get().enqueue(hStream, [block] { Gpu::get().memory.begin(block); });
  *devPtr = block;
  return cudaSuccess;
}

cudaError_t cudaFreeAsync(void* devPtr, cudaStream_t hStream) {
  if (devPtr == nullptr) return cudaSuccess;
  const Lock lock(Gpu::get().mutex);
  if (!Gpu::get().memory.give_up(devPtr)) return noted(cudaErrorInvalidValue);
  Gpu::get().enqueue(hStream, [devPtr] { Gpu::get().memory.end(devPtr); });
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** ptr, size_t size) {
  const Lock lock(Gpu::get().mutex);
  *ptr = Gpu::get().pinned.take(size);
  return noted(*ptr == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

cudaError_t cudaFreeHost(void* ptr) {
  const Lock lock(Gpu::get().mutex);
  Gpu::get().drain();  // as CUDA: it waits for the device
  return noted(Gpu::get().pinned.give_back(ptr) ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t count, enum cudaMemcpyKind kind, cudaStream_t stream) {
  const Lock lock(Gpu::get().mutex);
  return noted(yard::emulation::copy(dst, src, count, kind, stream));
}

cudaError_t cudaMemsetAsync(void* devPtr, int value, size_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const Lock lock(Gpu::get().mutex);
  if (!Gpu::get().memory.within_block(devPtr, count)) return noted(cudaErrorInvalidValue);
  Gpu::get().enqueue(stream, [=] { std::memset(devPtr, value, count); });
  return cudaSuccess;
}

}  // extern "C"
