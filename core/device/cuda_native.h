#pragma once

#include <cuda_runtime.h>

#include <type_traits>

namespace yard::cuda {

/// What only the CUDA compiler understands. The emulation has the same functions in tests/cuda_emulation/language.h; kernels use nothing
/// else that needs a GPU beside threadIdx, blockIdx, blockDim and gridDim.

using Lanes = unsigned;  // a bit for each thread of a warp
inline constexpr Lanes kAllLanes = 0xffffffffU;

/// Puts a kernel on a stream; its parameters are copied now.
template <class... Parameters>
void start(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream, std::type_identity_t<Parameters>... arguments) {
  kernel<<<grid, block, 0, stream>>>(arguments...);
}

/// The block's memory for one T, uninitialised: the same for every call with that T in a kernel.
template <class T>
__device__ __forceinline__ T& shared() {
  static __shared__ T memory;
  return memory;
}

/// All threads of the block that have not left the kernel meet; what they wrote before is seen by all after.
__device__ __forceinline__ void sync_block() { __syncthreads(); }
/// The same for lanes of a warp; every lane that is named must come.
__device__ __forceinline__ void sync_warp(Lanes lanes = kAllLanes) { __syncwarp(lanes); }

/// The value of another lane. Every lane that is named must come, and only a value of one of them means anything.
template <class T>
__device__ __forceinline__ T shuffle(T value, int from, Lanes lanes = kAllLanes) {
  return __shfl_sync(lanes, value, from);
}
/// The value of the lane whose number differs in these bits.
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int bits, Lanes lanes = kAllLanes) {
  return __shfl_xor_sync(lanes, value, bits);
}
/// The value of the lane that is so many numbers lower; its own where there is none.
template <class T>
__device__ __forceinline__ T shuffle_up(T value, unsigned by, Lanes lanes = kAllLanes) {
  return __shfl_up_sync(lanes, value, by);
}

/// Ends the program where a kernel finds values that it cannot work with: the host, which does not see them, reports that a launch failed.
/// `what` is for the emulation, which says it.
__device__ __forceinline__ void require(bool ok, const char* /*what*/) {
  if (!ok) __trap();
}

/// The named lanes for which it is true.
__device__ __forceinline__ Lanes ballot(bool is_true, Lanes lanes = kAllLanes) { return __ballot_sync(lanes, is_true); }
__device__ __forceinline__ bool any(bool is_true, Lanes lanes = kAllLanes) { return __any_sync(lanes, is_true) != 0; }
__device__ __forceinline__ bool all(bool is_true, Lanes lanes = kAllLanes) { return __all_sync(lanes, is_true) != 0; }

}  // namespace yard::cuda
