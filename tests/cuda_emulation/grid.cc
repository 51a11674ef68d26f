#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "tests/cuda_emulation/block.h"

namespace yard::emulation {
namespace {

/// A grid under way: each core takes the next block of the list until none is left.
struct Grid {
  dim3 size, block;
  const std::function<void()>* thread = nullptr;
  std::uint64_t launch = 0;
  std::vector<std::uint32_t> blocks;  // their numbers, in the order in which they start
  std::atomic<std::size_t> next = 0;

  void work() {
    Core& core = Core::mine();
    for (std::size_t i = next++; i < blocks.size(); i = next++) {
      const std::uint32_t number = blocks[i];
      core.run({number % size.x, number / size.x % size.y, number / size.x / size.y}, block, size, *thread, launch);
    }
  }
};

/// Threads that help the one that launches.
class Helpers {
 public:
  Helpers() {
    for (int i = 1; i < options().cores; ++i) threads_.emplace_back([this] { serve(); });
  }
  Helpers(const Helpers&) = delete;
  Helpers& operator=(const Helpers&) = delete;
  ~Helpers() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void run(Grid& grid) {
    {
      const std::lock_guard lock(mutex_);
      grid_ = &grid;
      ++round_;
      busy_ = threads_.size();
    }
    wake_.notify_all();
    grid.work();
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return busy_ == 0; });
    grid_ = nullptr;
  }

 private:
  void serve() {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return ending_ || round_ != seen; });
      if (ending_) return;
      seen = round_;
      Grid* grid = grid_;
      lock.unlock();
      grid->work();
      lock.lock();
      if (--busy_ == 0) idle_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::vector<std::thread> threads_;
  Grid* grid_ = nullptr;
  std::uint64_t round_ = 0;
  std::size_t busy_ = 0;
  bool ending_ = false;
};

}  // namespace

void run_grid(dim3 grid, dim3 block, const std::function<void()>& thread) {
  static std::uint64_t launches = 0;  // the device runs one kernel at a time
  Grid work;
  work.size = grid;
  work.block = block;
  work.thread = &thread;
  work.launch = ++launches;
  work.blocks.resize(static_cast<std::size_t>(grid.x) * grid.y * grid.z);
  std::iota(work.blocks.begin(), work.blocks.end(), 0U);
  if (options().order == Order::reverse) std::reverse(work.blocks.begin(), work.blocks.end());
  if (options().order == Order::shuffled) {
    Draws draws;
    for (std::size_t left = work.blocks.size(); left > 1; --left) {
      std::swap(work.blocks[left - 1], work.blocks[draws.below(static_cast<std::uint32_t>(left))]);
    }
  }
  if (work.blocks.size() == 1 || options().cores == 1) return work.work();
  static Helpers helpers;
  helpers.run(work);
}

}  // namespace yard::emulation
