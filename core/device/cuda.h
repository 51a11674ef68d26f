#pragma once

#include <cstdint>

#include "core/device/cuda_language.h"
#include "core/device/stream.h"
#include "core/tensor/tensor.h"

/// What .cu files build on; nothing else includes it. A kernel keeps to what the emulation of tests/cuda_emulation also runs: it is put on
/// its stream by `launch`, its shared memory is `auto& tile = shared<Tile>();`, and it meets other threads through the functions of
/// core/device/cuda_native.h.
namespace yard::cuda {

/// Throws Error with CUDA's own words unless `code` is success:  check_cuda(cudaEventRecord(...), "recording an event").
template <class... Parts>
void check_cuda(cudaError_t code, Message doing, const Parts&... parts) {
  if (code == cudaSuccess) return;
  (void)cudaGetLastError();  // takes it away, so that the next launch is not blamed
  fail(doing, parts..., " failed on the GPU: ", cudaGetErrorString(code));
}

inline cudaStream_t native(const Stream& stream) { return static_cast<cudaStream_t>(stream.native()); }

/// The values of a tensor on the GPU; throws where it lies on the host, which a kernel cannot read.
template <class T>
T* on_device(const Tensor& tensor) {
  check(tensor.device().type == DeviceType::cuda, "a kernel on the GPU was given a tensor of the host, of shape ", tensor.shape());
  return tensor.data<T>();
}

/// Puts a kernel on a stream, its parameters copied now; a grid without blocks is no work.
template <class... Parameters>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, Stream& stream, std::type_identity_t<Parameters>... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  start(kernel, grid, block, native(stream), arguments...);
  check_cuda(cudaGetLastError(), "launching a kernel on a grid of ", grid.x, " x ", grid.y, " x ", grid.z, " blocks of ", block.x, " x ",
             block.y, " threads");
}

inline constexpr int kWarp = 32;
inline constexpr int kBlockThreads = 256;  // at 255 registers a thread this is the most that always fits

/// Blocks of `each` items that cover `count` of them.
inline unsigned blocks_for(Index count, Index each = kBlockThreads) {
  const Index blocks = (count + each - 1) / each;
  check(blocks <= 0x7fffffff, "a kernel's grid has at most 2^31 - 1 blocks, ", blocks, " were asked for");
  return static_cast<unsigned>(blocks);
}
/// Threads that share a row of so many columns: whole warps, about four columns each. Depends on the width alone, and so does what a row's
/// sum rounds to.
inline unsigned row_threads(Index columns) {
  const Index warps = (columns + 4 * kWarp - 1) / (4 * kWarp);
  return static_cast<unsigned>(kWarp * (warps < 1 ? 1 : warps > kBlockThreads / kWarp ? kBlockThreads / kWarp : warps));
}

/// The number of this thread in a grid of one axis: the item that it works on.
__device__ __forceinline__ Index item() { return static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; }

/// Neighbouring values that one load or store moves.
template <class T, int kCount>
struct alignas(kCount * sizeof(T)) Pack {
  T values[kCount];
};

template <int kCount, class T>
__device__ __forceinline__ Pack<T, kCount> load_pack(const T* from, Index number) {
  return reinterpret_cast<const Pack<T, kCount>*>(from)[number];
}
template <int kCount, class T>
__device__ __forceinline__ void store_pack(T* to, Index number, const Pack<T, kCount>& pack) {
  reinterpret_cast<Pack<T, kCount>*>(to)[number] = pack;
}

/// Calls body with std::integral_constant 4 where rows of so many columns of all these tensors can be moved in packs of four, else with 1.
template <class Body, class... Tensors>
decltype(auto) with_packs(Index columns, const Body& body, const Tensors&... tensors) {
  const auto aligned = [](const Tensor& tensor) {
    return !tensor.defined() || reinterpret_cast<std::uintptr_t>(tensor.raw()) % (4 * size_of(tensor.dtype())) == 0;
  };
  if (columns % 4 == 0 && (aligned(tensors) && ...)) return body(std::integral_constant<int, 4>{});
  return body(std::integral_constant<int, 1>{});
}

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

/// Combines the values of a warp's 32 lanes pair by pair, in a fixed order; every lane gets the result. `combine` commutes.
template <class T, class Combine = Add>
__device__ __forceinline__ T warp_reduce(T value, Combine combine = {}) {
  for (int bits = kWarp / 2; bits > 0; bits /= 2) value = combine(value, shuffle_xor(value, bits));
  return value;
}

template <class T>
struct WarpTotals {
  T values[kBlockThreads / kWarp];
};

/// Combines the values of all threads of a block, whole warps and at most kBlockThreads: warps pair by pair, then the warps in their order.
/// Every thread calls it and gets the result.
template <class T, class Combine = Add>
__device__ __forceinline__ T block_reduce(T value, Combine combine = {}) {
  auto& totals = shared<WarpTotals<T>>();
  const unsigned warps = blockDim.x / kWarp;
  value = warp_reduce(value, combine);
  sync_block();  // everybody has read what an earlier reduction left
  if (threadIdx.x % kWarp == 0) totals.values[threadIdx.x / kWarp] = value;
  sync_block();
  T result = totals.values[0];
  for (unsigned warp = 1; warp < warps; ++warp) result = combine(result, totals.values[warp]);
  return result;
}

}  // namespace yard::cuda
