#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

// What the CUDA compiler gives every kernel.
extern constinit thread_local uint3 threadIdx;
extern constinit thread_local uint3 blockIdx;
extern constinit thread_local dim3 blockDim;
extern constinit thread_local dim3 gridDim;

namespace yard::emulation {

/// Puts a kernel on a stream; `thread` runs one of its threads.
void enqueue_kernel(cudaStream_t stream, dim3 grid, dim3 block, std::function<void()> thread);
/// What a launch reports: an error that cudaGetLastError tells, where the GPU has no such grid or block.
cudaError_t note_launch(dim3 grid, dim3 block);
/// Refuses a pointer that a kernel on a GPU could not follow.
void check_argument(const void* pointer);

/// What the thread that runs asks of its block (block.h).
void meet_block();
/// Every lane of the mask hands in up to 16 bytes; writes those of lane `from` to `into`, or nonsense where that lane is not in the mask.
enum class Meeting : std::uint8_t { sync, shuffle, vote };
void meet_warp(Meeting kind, unsigned lanes, const void* mine, int from, void* into, std::size_t bytes);
unsigned vote(unsigned lanes, bool is_true);
[[noreturn]] void refuse(const char* what);
int lane();
void* shared_memory(const void* key, std::size_t bytes, std::size_t alignment);

/// Tells types apart.
template <class T>
inline constexpr char kKey = 0;

}  // namespace yard::emulation

namespace yard::cuda {

/// The functions of core/device/cuda_native.h, for threads that are fibers.

using Lanes = unsigned;
inline constexpr Lanes kAllLanes = 0xffffffffU;

template <class... Parameters>
void start(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream, std::type_identity_t<Parameters>... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "a kernel's parameters are copied to the GPU byte by byte");
  const auto check_one = [](const auto& argument) {
    if constexpr (std::is_pointer_v<std::remove_cvref_t<decltype(argument)>>) emulation::check_argument(argument);
  };
  (check_one(arguments), ...);
  emulation::enqueue_kernel(stream, grid, block, [=] { kernel(arguments...); });
}

template <class T>
T& shared() {
  static_assert(std::is_trivially_default_constructible_v<T>, "shared memory is not initialised");
  return *static_cast<T*>(emulation::shared_memory(&emulation::kKey<T>, sizeof(T), alignof(T)));
}

inline void sync_block() { emulation::meet_block(); }
inline void sync_warp(Lanes lanes = kAllLanes) { emulation::meet_warp(emulation::Meeting::sync, lanes, nullptr, 0, nullptr, 0); }

template <class T>
T shuffle(T value, int from, Lanes lanes = kAllLanes) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  T result;
  emulation::meet_warp(emulation::Meeting::shuffle, lanes, &value, from & 31, &result, sizeof(T));
  return result;
}
template <class T>
T shuffle_xor(T value, int bits, Lanes lanes = kAllLanes) {
  return shuffle(value, emulation::lane() ^ bits, lanes);
}
template <class T>
T shuffle_up(T value, unsigned by, Lanes lanes = kAllLanes) {
  const int from = emulation::lane() - static_cast<int>(by);
  return shuffle(value, from < 0 ? emulation::lane() : from, lanes);
}

inline void require(bool ok, const char* what) {
  if (!ok) emulation::refuse(what);
}

inline Lanes ballot(bool is_true, Lanes lanes = kAllLanes) { return emulation::vote(lanes, is_true); }
inline bool any(bool is_true, Lanes lanes = kAllLanes) { return emulation::vote(lanes, is_true) != 0; }
inline bool all(bool is_true, Lanes lanes = kAllLanes) { return emulation::vote(lanes, is_true) == lanes; }

}  // namespace yard::cuda
