#include "tests/cuda_emulation/queues.h"

#include <algorithm>
#include <string>

#include "tests/cuda_emulation/block.h"
#include "tests/cuda_emulation/options.h"

namespace yard::emulation {

Gpu& Gpu::get() {
  static Gpu* gpu = new Gpu;  // never destroyed: streams and tensors of other statics may end later
  return *gpu;
}

cudaStream_t Gpu::make_stream() {
  streams_.push_back(std::make_unique<CUstream_st>());
  streams_.back()->number = ++made_;
  return streams_.back().get();
}

void Gpu::destroy_stream(cudaStream_t stream) { stream->destroyed = true; }

void Gpu::enqueue(cudaStream_t stream, std::function<void()> run, HostRange host) {
  if (stream == nullptr) fault("work was put on the default stream; every stream of ours is its own");
  if (stream->destroyed) fault("work was put on a stream that is destroyed");
  stream->queue.push_back({std::move(run), nullptr, host});
}

void Gpu::record(cudaStream_t stream, cudaEvent_t event) {
  auto record = std::make_shared<Record>();
  record->stream = stream;
  event->latest = record;
  enqueue(stream, [record] {
    record->reached = true;
    record->when = std::chrono::steady_clock::now();
  });
}

void Gpu::wait(cudaStream_t stream, cudaEvent_t event) {
  if (event->latest == nullptr) return;  // as CUDA: an event that was never recorded is no reason to wait
  enqueue(stream, nullptr);
  stream->queue.back().waits_for = event->latest;
}

bool Gpu::can_run(const CUstream_st& stream) {
  return !stream.queue.empty() && (!stream.queue.front().waits_for || stream.queue.front().waits_for->reached);
}

/// The stream whose front must run before this one can go on, itself when nothing holds it.
CUstream_st* Gpu::needed_by(CUstream_st* stream) {
  while (!can_run(*stream)) stream = stream->queue.front().waits_for->stream;
  return stream;
}

CUstream_st* Gpu::choose(CUstream_st* wanted) {
  std::vector<CUstream_st*> able;
  for (const auto& stream : streams_) {
    if (can_run(*stream)) able.push_back(stream.get());
  }
  CUstream_st* const needed = wanted == nullptr ? able.front() : needed_by(wanted);
  switch (options().order) {
    case Order::forward:
      return needed;
    case Order::reverse:
      if (wanted == nullptr || able.back() != needed || able.size() == 1) return able.back();
      return able[able.size() - 2];
    default: {
      static Draws draws;
      return able[draws.below(static_cast<std::uint32_t>(able.size()))];
    }
  }
}

void Gpu::run_front(CUstream_st& stream) {
  const Operation next = std::move(stream.queue.front());
  stream.queue.pop_front();
  if (next.run) next.run();
}

void Gpu::run_until(const std::function<bool()>& enough, CUstream_st* wanted) {
  {
    const Memory::Open open(memory);
    while (!enough()) run_front(*choose(wanted));
  }
  streams_.erase(std::remove_if(streams_.begin(), streams_.end(), [](const auto& one) { return one->destroyed && one->queue.empty(); }),
                 streams_.end());
}

void Gpu::finish(cudaStream_t stream) {
  run_until([stream] { return stream->queue.empty(); }, stream);
}

void Gpu::finish(const Record& record) {
  run_until([&record] { return record.reached; }, record.stream);
}

void Gpu::drain() {
  run_until([this] { return std::all_of(streams_.begin(), streams_.end(), [](const auto& one) { return one->queue.empty(); }); }, nullptr);
}

void Gpu::step(cudaStream_t stream) {
  if (stream->queue.empty()) return;
  const Memory::Open open(memory);
  run_front(*needed_by(stream));
}

bool Gpu::touches(const void* host, std::size_t bytes) const {
  const auto* first = static_cast<const std::byte*>(host);
  return std::any_of(streams_.begin(), streams_.end(), [&](const auto& stream) {
    return std::any_of(stream->queue.begin(), stream->queue.end(), [&](const Operation& one) {
      return one.host.bytes > 0 && first < one.host.first + one.host.bytes && one.host.first < first + bytes;
    });
  });
}

void before_starting_call(const char* name, std::initializer_list<const void*> buffers) {
  Gpu& gpu = Gpu::get();
  const std::lock_guard lock(gpu.mutex);
  for (const void* buffer : buffers) {
    if (buffer != nullptr && gpu.touches(buffer, 1)) {
      fault(std::string(name) + " was given page-locked memory that a queued copy still reads or writes; wait for the copy's event first");
    }
  }
}

void before_blocking_call(const char* name, std::initializer_list<const void*> buffers) {
  const std::lock_guard lock(Gpu::get().mutex);
  before_starting_call(name, buffers);
  Gpu::get().drain();
}

void enqueue_kernel(cudaStream_t stream, dim3 grid, dim3 block, std::function<void()> thread) {
  Gpu& gpu = Gpu::get();
  const std::lock_guard lock(gpu.mutex);
  if (note_launch(grid, block) != cudaSuccess) return;
  gpu.enqueue(stream, [=] { run_grid(grid, block, thread); });
}

void check_argument(const void* pointer) {
  Gpu& gpu = Gpu::get();
  const std::lock_guard lock(gpu.mutex);
  if (pointer == nullptr || gpu.memory.holds(pointer) || gpu.pinned.holds(pointer)) return;
  fault("a kernel was given an address of ordinary host memory, which a GPU cannot read");
}

}  // namespace yard::emulation
