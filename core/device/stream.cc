#include "core/device/stream.h"

#include <chrono>
#include <cstring>

namespace yard {
namespace {

class HostEvent final : public Event::State {
 public:
  void wait() const override {}
  bool done() const override { return true; }
  double seconds_since(const State& earlier) const override {
    const auto* other = dynamic_cast<const HostEvent*>(&earlier);
    check(other != nullptr, "the time between events of two devices is not known");
    return std::chrono::duration<double>(reached_ - other->reached_).count();
  }

 private:
  std::chrono::steady_clock::time_point reached_ = std::chrono::steady_clock::now();
};

class HostStream final : public Stream::Backend {
 public:
  void synchronize() override {}
  Event record() override { return Event(std::make_shared<HostEvent>()); }
  void wait(const Event& event) override { event.wait(); }
  void copy(void* to, const void* from, std::size_t bytes) override { std::memmove(to, from, bytes); }
  void set(void* at, int value, std::size_t bytes) override { std::memset(at, value, bytes); }
  void* native() const noexcept override { return nullptr; }
  std::shared_ptr<Allocator> allocator() const override { return allocator_; }
  std::shared_ptr<Allocator> host_allocator() const override { return allocator_; }

 private:
  std::shared_ptr<Allocator> allocator_ = make_host_allocator();
};

}  // namespace

double Event::seconds_since(const Event& earlier) const {
  check(state_ != nullptr && earlier.state_ != nullptr, "the time between two events is known only when both were recorded");
  return state_->seconds_since(*earlier.state_);
}

std::shared_ptr<Stream::Backend> make_stream(Cpu, Device) { return std::make_shared<HostStream>(); }

Stream::Stream(Device device)
    : device_(device),
      backend_(dispatch(device, [&](auto on) { return make_stream(on, device); })),
      allocator_(backend_->allocator()),
      host_allocator_(backend_->host_allocator()) {}

}  // namespace yard
