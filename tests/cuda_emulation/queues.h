#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <vector>

#include "tests/cuda_emulation/memory.h"

namespace yard::emulation {

/// One recording of an event.
struct Record {
  CUstream_st* stream = nullptr;
  bool reached = false;
  std::chrono::steady_clock::time_point when;
};

/// Page-locked host memory that a queued copy reads or writes.
struct HostRange {
  const std::byte* first = nullptr;
  std::size_t bytes = 0;
};

/// What waits on a stream for its turn.
struct Operation {
  std::function<void()> run;          // empty for a wait
  std::shared_ptr<Record> waits_for;  // by cudaStreamWaitEvent
  HostRange host;
};

}  // namespace yard::emulation

struct CUstream_st {
  std::uint64_t number = 0;
  bool destroyed = false;
  std::deque<yard::emulation::Operation> queue;
};

struct CUevent_st {
  std::shared_ptr<yard::emulation::Record> latest;
};

namespace yard::emulation {

/// The emulated GPU. Nothing on a stream runs before somebody waits for it; then everything runs that must, in an order that only events
/// and the order within each stream restrict:
///   forward   what is waited for, and of other streams only what its events ask for
///   reverse   all that can of the other streams first, the newest stream before older ones
///   shuffled  any stream that can, drawn anew for each operation
/// So a missing event shows in forward order where it should make a stream wait for another's result, and in reverse where it should keep a
/// stream from overwriting what another still reads.
class Gpu {
 public:
  static Gpu& get();

  std::recursive_mutex mutex;  // held by every function of the runtime
  Memory memory;
  PinnedMemory pinned;

  cudaStream_t make_stream();
  void destroy_stream(cudaStream_t stream);
  /// Puts an operation on a stream; the default stream is not emulated.
  void enqueue(cudaStream_t stream, std::function<void()> run, HostRange host = {});
  void record(cudaStream_t stream, cudaEvent_t event);
  void wait(cudaStream_t stream, cudaEvent_t event);

  void finish(cudaStream_t stream);
  void finish(const Record& record);
  void drain();
  /// One operation, so that who asks again and again gets on.
  void step(cudaStream_t stream);
  /// Whether a queued copy touches these bytes of the host.
  bool touches(const void* host, std::size_t bytes) const;

 private:
  Gpu() = default;
  void run_until(const std::function<bool()>& enough, CUstream_st* wanted);
  CUstream_st* choose(CUstream_st* wanted);
  static CUstream_st* needed_by(CUstream_st* stream);
  static bool can_run(const CUstream_st& stream);
  void run_front(CUstream_st& stream);

  std::vector<std::unique_ptr<CUstream_st>> streams_;  // in the order in which they were made
  std::uint64_t made_ = 0;
};

/// Before a call that may block for other processes: runs everything queued, as hardware would by itself. A buffer of the call that a
/// queued copy still reads or writes is a missing wait.
void before_blocking_call(const char* name, std::initializer_list<const void*> buffers);
/// Before a call that takes the bytes of its buffers from now on without blocking: the same check of them, and nothing runs.
void before_starting_call(const char* name, std::initializer_list<const void*> buffers);

}  // namespace yard::emulation
