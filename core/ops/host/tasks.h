#pragma once

#include <omp.h>

#include <atomic>
#include <exception>
#include <functional>
#include <mutex>
#include <vector>

#include "core/tensor/tensor.h"

namespace yard::ops::host {

/// How many threads run_tasks would use: what scratch memory is counted by.
inline int team_size() { return omp_in_parallel() != 0 ? 1 : omp_get_max_threads(); }

/// While it lives, library calls of this thread use no other threads.
class OneThread {
 public:
  OneThread() { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(threads_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int threads_ = omp_get_max_threads();
};

/// Tasks [0, tasks) handed out in order as threads become free: neighbours that share their operands are worked on together.
class InOrder {
 public:
  InOrder(Index tasks, int) : tasks_(tasks) {}
  template <class Body>
  void work(int, const Body& body) {
    for (Index task = next_.fetch_add(1); task < tasks_; task = next_.fetch_add(1)) body(task);
  }
  void stop() { next_ = tasks_; }

 private:
  std::atomic<Index> next_{0};
  Index tasks_;
};

/// Every thread takes its share of neighbours in order, then what is left of the others' shares: memory that is read once is read fastest
/// in long streams.
class Shares {
 public:
  Shares(Index tasks, int threads) : shares_(static_cast<std::size_t>(threads)) {
    for (Index i = 0; i < threads; ++i) {
      shares_[static_cast<std::size_t>(i)].next = tasks * i / threads;
      shares_[static_cast<std::size_t>(i)].end = tasks * (i + 1) / threads;
    }
  }
  template <class Body>
  void work(int thread, const Body& body) {
    for (std::size_t i = 0; i < shares_.size(); ++i) {
      Share& share = shares_[(static_cast<std::size_t>(thread) + i) % shares_.size()];
      for (Index task = share.next.fetch_add(1); task < share.end; task = share.next.fetch_add(1)) body(task);
    }
  }
  void stop() {
    for (Share& share : shares_) share.next = share.end;
  }

 private:
  struct alignas(64) Share {  // a line of the cache each
    std::atomic<Index> next{0};
    Index end = 0;
  };
  std::vector<Share> shares_;
};

/// Calls body(task, thread) once for each task in [0, tasks), each on one thread of the team, handed out by an Order: InOrder or Shares.
/// Library products called by the body stay on that thread. The calling thread calls `poll` after each of its tasks. When a body or `poll`
/// throws, no further tasks are handed out and the first exception is thrown again here.
template <class Order = InOrder, class Body>
void run_tasks(Index tasks, const std::function<void()>& poll, Body&& body) {
  if (tasks <= 0) return;
  if (tasks == 1 || team_size() == 1) {
    const OneThread one;
    for (Index task = 0; task < tasks; ++task) {
      body(task, 0);
      if (poll) poll();
    }
    return;
  }
  Order order(tasks, team_size());
  std::exception_ptr error;
  std::mutex mutex;
#pragma omp parallel
  {
    const OneThread one;  // a team that turns out to be of one thread is no parallel region to the library
    const int thread = omp_get_thread_num();
    try {
      order.work(thread, [&](Index task) {
        body(task, thread);
        if (thread == 0 && poll) poll();
      });
    } catch (...) {
      order.stop();
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

template <class Order = InOrder, class Body>
void run_tasks(Index tasks, Body&& body) {
  run_tasks<Order>(tasks, {}, std::forward<Body>(body));
}

}  // namespace yard::ops::host
