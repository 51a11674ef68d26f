#pragma once

#include <algorithm>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "core/device/stream.h"

namespace yard {

/// A posted operation: a collective, or a computation that follows one. It keeps its tensors alive. Work queued on the stream after `wait`
/// sees the result. The destructor waits, or abandons the operation during stack unwinding (law 9).
class [[nodiscard]] Work {
 public:
  class State {
   public:
    virtual ~State() = default;
    /// Makes the result visible to work queued on the stream from now on; called at most once.
    virtual void wait(Stream& stream) = 0;
    /// Whether `wait` would return without blocking on another rank. Never blocks.
    virtual bool done() = 0;
    /// Gives up without waiting: the process is about to exit.
    virtual void abandon() noexcept {}
  };

  Work() = default;  // nothing to wait for
  Work(Stream& stream, std::unique_ptr<State> state) : stream_(&stream), state_(std::move(state)) {}
  Work(Work&& other) noexcept : stream_(other.stream_), state_(std::move(other.state_)) {}
  Work& operator=(Work&& other) {
    if (this != &other) {
      if (state_) wait(*stream_);
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

  /// Makes the result visible to work queued on the stream from now on. Does nothing if there is nothing to wait for.
  void wait(Stream& stream) {
    if (auto state = std::move(state_)) state->wait(stream);
  }
  /// Whether `wait` would return without blocking on another rank; true if there is nothing to wait for.
  bool done() const { return state_ == nullptr || state_->done(); }
  /// Whether there is anything to wait for.
  bool pending() const noexcept { return state_ != nullptr; }

  /// Work that waits for `first` and then calls after(stream) with the stream passed to `wait`.
  template <class After>
  static Work then(Stream& stream, Work first, After after);
  /// Work that waits for all `works`, in order. They must have been posted on one stream.
  static Work all(std::vector<Work> works);

 private:
  template <class After>
  class Chain;
  class Several;

  void abandon() noexcept {
    if (auto state = std::move(state_)) state->abandon();
  }
  Stream* stream_ = nullptr;
  std::unique_ptr<State> state_;
};

template <class After>
class Work::Chain final : public State {
 public:
  Chain(Work first, After after) : first_(std::move(first)), after_(std::move(after)) {}
  void wait(Stream& stream) override {
    first_.wait(stream);
    after_(stream);
  }
  bool done() override { return first_.done(); }
  void abandon() noexcept override { first_.abandon(); }

 private:
  Work first_;
  After after_;
};

class Work::Several final : public State {
 public:
  explicit Several(std::vector<Work> works) : works_(std::move(works)) {}
  void wait(Stream& stream) override {
    for (Work& work : works_) work.wait(stream);
  }
  bool done() override {
    return std::all_of(works_.begin(), works_.end(), [](const Work& work) { return work.done(); });
  }
  void abandon() noexcept override {
    for (Work& work : works_) work.abandon();
  }

 private:
  std::vector<Work> works_;
};

template <class After>
Work Work::then(Stream& stream, Work first, After after) {
  return {stream, std::make_unique<Chain<After>>(std::move(first), std::move(after))};
}

inline Work Work::all(std::vector<Work> works) {
  std::erase_if(works, [](const Work& work) { return !work.pending(); });
  if (works.empty()) return {};
  if (works.size() == 1) return std::move(works.front());
  Stream& stream = *works.front().stream_;
  return {stream, std::make_unique<Several>(std::move(works))};
}

}  // namespace yard
