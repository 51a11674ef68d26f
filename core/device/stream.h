#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <typeindex>
#include <utility>

#include "core/device/buffer.h"
#include "core/device/device.h"

namespace yard {

/// A point in the work of a stream. One that was never recorded has always been reached.
class Event {
 public:
  /// What a device keeps for an event.
  class State {
   public:
    virtual ~State() = default;
    virtual void wait() const = 0;
    virtual bool done() const = 0;
    /// Throws when the earlier event is another device's.
    virtual double seconds_since(const State& earlier) const = 0;
  };

  Event() = default;
  explicit Event(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  /// Holds the calling thread until the stream has come here.
  void wait() const {
    if (state_) state_->wait();
  }
  bool done() const { return !state_ || state_->done(); }
  /// Device time between two recorded events, seconds.
  double seconds_since(const Event& earlier) const;
  const State* state() const noexcept { return state_.get(); }

 private:
  std::shared_ptr<const State> state_;
};

/// A sequence of computations on one device, and the memory they take. The CPU's stream runs its work at once, a GPU's when its turn comes.
class Stream {
 public:
  /// What a device does for a stream.
  class Backend {
   public:
    virtual ~Backend() = default;
    virtual void synchronize() = 0;
    virtual Event record() = 0;
    virtual void wait(const Event& event) = 0;
    virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
    virtual void set(void* at, int value, std::size_t bytes) = 0;
    virtual void* native() const noexcept = 0;
    virtual std::shared_ptr<Allocator> allocator() const = 0;
    virtual std::shared_ptr<Allocator> host_allocator() const = 0;
  };

  /// On a GPU the calling thread gets the device as its current one, and must be the one that uses the stream.
  explicit Stream(Device device);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device device() const noexcept { return device_; }
  /// Holds the calling thread until all work so far is done.
  void synchronize() { backend_->synchronize(); }
  Event record() { return backend_->record(); }
  /// Work put on this stream from now on starts after the event.
  void wait(const Event& event) { backend_->wait(event); }
  /// Copies bytes in the order of the stream, either way between host and device or within one of them. Page-locked host memory must stay
  /// untouched until the copy is done; from other host memory the bytes are taken at once, and into it the call waits for them.
  void copy(void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) backend_->copy(to, from, bytes);
  }
  /// Sets every byte, in the order of the stream.
  void set(void* at, int value, std::size_t bytes) {
    if (bytes > 0) backend_->set(at, value, bytes);
  }
  /// The device's own stream (a cudaStream_t), or null on the CPU.
  void* native() const noexcept { return backend_->native(); }
  /// The device's memory; freed blocks go back in the order of the stream.
  const std::shared_ptr<Allocator>& allocator() const noexcept { return allocator_; }
  /// Host memory that copies to and from the device run fastest with: page-locked where that is a difference. Freed blocks serve the next
  /// caller at once, so hold one until every copy that touches it is done.
  const std::shared_ptr<Allocator>& host_allocator() const noexcept { return host_allocator_; }
  /// What kernels keep for as long as the stream lives, such as compiled products: one T of each type, made when first asked for.
  template <class T>
  T& kept() const;

 private:
  struct Kept {
    std::mutex mutex;
    std::map<std::type_index, std::shared_ptr<void>> things;
  };
  Device device_;
  std::shared_ptr<Backend> backend_;
  std::shared_ptr<Allocator> allocator_, host_allocator_;
  std::shared_ptr<Kept> kept_ = std::make_shared<Kept>();  // last, so that what it holds goes before the stream
};

/// One a device; the CPU's is in stream.cc, CUDA's in stream.cu.
std::shared_ptr<Stream::Backend> make_stream(Cpu, Device);
std::shared_ptr<Stream::Backend> make_stream(Cuda, Device);

template <class T>
T& Stream::kept() const {
  const std::lock_guard lock(kept_->mutex);
  auto& thing = kept_->things[std::type_index(typeid(T))];
  if (!thing) thing = std::make_shared<T>();
  return *static_cast<T*>(thing.get());
}

}  // namespace yard
