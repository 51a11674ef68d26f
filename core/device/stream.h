#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <typeindex>

#include "core/device/buffer.h"
#include "core/device/device.h"

namespace yard {

/// A point in the work of a stream.
class Event {
 public:
  Event() = default;
  explicit Event(std::chrono::steady_clock::time_point reached) : reached_(reached) {}
  void wait() const {}
  bool done() const { return true; }
  /// Device time between two recorded events, seconds.
  double seconds_since(const Event& earlier) const { return std::chrono::duration<double>(reached_ - earlier.reached_).count(); }

 private:
  std::chrono::steady_clock::time_point reached_;
};

/// A sequence of computations on one device, and the memory they take. The CPU's stream runs its work at once.
class Stream {
 public:
  explicit Stream(Device device);
  Device device() const noexcept { return device_; }
  void synchronize() {}
  Event record() { return Event(std::chrono::steady_clock::now()); }
  void wait(const Event& event) { event.wait(); }
  const std::shared_ptr<Allocator>& allocator() const noexcept { return allocator_; }
  /// What kernels keep for as long as the stream lives, such as compiled products: one T of each type, made when first asked for.
  template <class T>
  T& kept() const;

 private:
  struct Kept {
    std::mutex mutex;
    std::map<std::type_index, std::shared_ptr<void>> things;
  };
  Device device_;
  std::shared_ptr<Allocator> allocator_;
  std::shared_ptr<Kept> kept_ = std::make_shared<Kept>();
};

template <class T>
T& Stream::kept() const {
  const std::lock_guard lock(kept_->mutex);
  auto& thing = kept_->things[std::type_index(typeid(T))];
  if (!thing) thing = std::make_shared<T>();
  return *static_cast<T*>(thing.get());
}

}  // namespace yard
