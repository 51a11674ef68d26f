#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <utility>

#include "core/device/stream.h"

namespace yard {

/// Work that has been started and not yet met: a collective under way, or what must be done when one ends. It keeps its tensors alive;
/// work put on the stream after `wait` sees the result. Dropping it joins it, or abandons it while an exception unwinds (law 9).
class [[nodiscard]] Work {
 public:
  class State {
   public:
    virtual ~State() = default;
    /// Makes the stream see the result; called at most once.
    virtual void wait(Stream& stream) = 0;
    /// Lets go without waiting: the process is about to end.
    virtual void abandon() noexcept {}
  };

  Work() = default;  // nothing to wait for
  Work(Stream& stream, std::unique_ptr<State> state) : stream_(&stream), state_(std::move(state)) {}
  Work(Work&& other) noexcept : stream_(other.stream_), state_(std::move(other.state_)) {}
  Work& operator=(Work&& other) {
    if (this != &other) {
      finish();
      stream_ = other.stream_;
      state_ = std::move(other.state_);
    }
    return *this;
  }
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;
  ~Work() {
    if (!state_) return;
    if (std::uncaught_exceptions() > 0) {
      state_->abandon();
      return;
    }
    try {
      state_->wait(*stream_);
    } catch (...) {
      state_->abandon();  // the next collective on this communicator reports the failure
    }
  }

  void wait(Stream& stream) {
    if (auto state = std::move(state_)) state->wait(stream);
  }
  bool pending() const noexcept { return state_ != nullptr; }

  /// Work that waits for `first` and then runs `after` on the waiting stream.
  static Work then(Stream& stream, Work first, std::function<void(Stream&)> after);

 private:
  void finish() {
    if (state_) wait(*stream_);
  }
  Stream* stream_ = nullptr;
  std::unique_ptr<State> state_;
};

inline Work Work::then(Stream& stream, Work first, std::function<void(Stream&)> after) {
  class Chain final : public State {
   public:
    Chain(Work before, std::function<void(Stream&)> next) : first_(std::move(before)), after_(std::move(next)) {}
    void wait(Stream& on) override {
      first_.wait(on);
      after_(on);
    }
    void abandon() noexcept override {
      if (first_.state_) first_.state_->abandon();
      first_.state_.reset();
    }

   private:
    Work first_;
    std::function<void(Stream&)> after_;
  };
  return {stream, std::make_unique<Chain>(std::move(first), std::move(after))};
}

}  // namespace yard
