#include "core/device/stream.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "core/device/cuda.h"
#include "core/handle.h"

namespace yard {
namespace {

using cuda::check_cuda;

struct StreamTraits {
  using Type = cudaStream_t;
  static Type null() { return nullptr; }
  static void destroy(Type stream) noexcept { (void)cudaStreamDestroy(stream); }
};
struct EventTraits {
  using Type = cudaEvent_t;
  static Type null() { return nullptr; }
  static void destroy(Type event) noexcept { (void)cudaEventDestroy(event); }
};

class CudaEvent final : public Event::State {
 public:
  explicit CudaEvent(cudaStream_t stream) {
    cudaEvent_t event = nullptr;
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDefault), "making an event");
    event_ = Handle<EventTraits>(event);
    check_cuda(cudaEventRecord(event, stream), "recording an event");
  }
  void wait() const override { check_cuda(cudaEventSynchronize(event_.get()), "waiting for an event"); }
  bool done() const override {
    const cudaError_t code = cudaEventQuery(event_.get());
    if (code == cudaErrorNotReady) {
      (void)cudaGetLastError();
      return false;
    }
    check_cuda(code, "asking for an event");
    return true;
  }
  double seconds_since(const State& earlier) const override {
    const auto* other = dynamic_cast<const CudaEvent*>(&earlier);
    check(other != nullptr, "the time between events of two devices is not known");
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, other->event_.get(), event_.get()), "measuring the time between two events");
    return static_cast<double>(milliseconds) * 1e-3;
  }
  cudaEvent_t native() const noexcept { return event_.get(); }

 private:
  Handle<EventTraits> event_;
};

/// The memory pool of CUDA itself, in the order of one stream. Counts what is asked for, not what the pool holds.
class CudaAllocator final : public Allocator {
 public:
  explicit CudaAllocator(std::shared_ptr<const Handle<StreamTraits>> stream) : stream_(std::move(stream)) {}

  void* allocate(std::size_t bytes) override {
    void* block = nullptr;
    check_cuda(cudaMallocAsync(&block, bytes, stream_->get()), "taking ", bytes, " bytes of device memory beside ", in_use(), " in use");
    const std::size_t now = in_use_ += bytes;
    std::size_t before = peak_;
    while (before < now && !peak_.compare_exchange_weak(before, now)) {
    }
    return block;
  }
  void free(void* block, std::size_t bytes) noexcept override {
    (void)cudaFreeAsync(block, stream_->get());
    in_use_ -= bytes;
  }
  std::size_t in_use() const noexcept override { return in_use_; }
  std::size_t peak() const noexcept override { return peak_; }
  void reset_peak() noexcept override { peak_ = in_use_.load(); }

 private:
  std::shared_ptr<const Handle<StreamTraits>> stream_;
  std::atomic<std::size_t> in_use_ = 0, peak_ = 0;
};

class CudaStream final : public Stream::Backend {
 public:
  explicit CudaStream(Device device) {
    int devices = 0;
    check_cuda(cudaGetDeviceCount(&devices), "looking for GPUs");
    check_input(device.index >= 0 && device.index < devices, "GPU ", device.index, " was asked for, but this machine has ", devices);
    check_cuda(cudaSetDevice(device.index), "taking GPU ", device.index);
    // By default the pool returns free memory to the system at each synchronisation, and asks for it again.
    cudaMemPool_t pool = nullptr;
    check_cuda(cudaDeviceGetDefaultMemPool(&pool, device.index), "finding the memory pool of GPU ", device.index);
    std::uint64_t keep = std::numeric_limits<std::uint64_t>::max();
    check_cuda(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "setting up the memory pool");
    cudaStream_t stream = nullptr;
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
    stream_ = std::make_shared<const Handle<StreamTraits>>(stream);
    allocator_ = std::make_shared<CudaAllocator>(stream_);
  }

  void synchronize() override { check_cuda(cudaStreamSynchronize(stream_->get()), "waiting for a stream"); }
  Event record() override { return Event(std::make_shared<CudaEvent>(stream_->get())); }
  void wait(const Event& event) override {
    if (const auto* on_gpu = dynamic_cast<const CudaEvent*>(event.state())) {
      check_cuda(cudaStreamWaitEvent(stream_->get(), on_gpu->native(), 0), "making a stream wait for an event");
    } else {
      event.wait();
    }
  }
  void copy(void* to, const void* from, std::size_t bytes) override {
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_->get()), "copying ", bytes, " bytes");
  }
  void set(void* at, int value, std::size_t bytes) override {
    check_cuda(cudaMemsetAsync(at, value, bytes, stream_->get()), "setting ", bytes, " bytes");
  }
  void* native() const noexcept override { return stream_->get(); }
  std::shared_ptr<Allocator> allocator() const override { return allocator_; }
  std::shared_ptr<Allocator> host_allocator() const override { return pinned_; }

 private:
  std::shared_ptr<const Handle<StreamTraits>> stream_;  // outlives every block that is freed on it
  std::shared_ptr<Allocator> allocator_;
  std::shared_ptr<Allocator> pinned_ = make_pinned_allocator(Cuda{});
};

}  // namespace

std::shared_ptr<Stream::Backend> make_stream(Cuda, Device device) { return std::make_shared<CudaStream>(device); }

}  // namespace yard
