#pragma once

#include <cstddef>
#include <memory>

namespace yard::emulation {

/// How a fiber and the thread that resumes it change places. One file for each kind of processor, chosen in CMakeLists.txt.
class Machine {
 public:
  virtual ~Machine() = default;
  /// Leaves the thread for the fiber: for where it stopped last, at first for the function's beginning.
  virtual void go_in() = 0;
  /// Leaves the fiber for its thread.
  virtual void go_out() = 0;
};
/// `function(argument)` is to run on that stack; it never returns.
std::unique_ptr<Machine> make_machine(std::byte* stack, std::size_t bytes, void (*function)(void*), void* argument);

/// A function that can stop in the middle and go on later, on a stack of its own, always on the thread that made it. The function never
/// returns. The address sanitizer is told of each switch.
class Fiber {
 public:
  /// `function(argument)` starts at the first resume.
  Fiber(void (*function)(void*), void* argument);
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  /// Runs the fiber until it yields.
  void resume();
  /// Goes back to who resumed it; called by the fiber itself.
  void yield();

  /// Whether the address lies below one of this thread's stacks, where one that overflows ends.
  static bool overflowed(const void* address);

 private:
  static void enter(void* fiber);

  void (*function_)(void*);
  void* argument_;
  std::byte* mapping_;  // a page that nobody may touch, then the stack
  std::unique_ptr<Machine> machine_;
  // What the sanitizer keeps for the side that is away, and the stack of the thread.
  void* own_frames_ = nullptr;
  void* outer_frames_ = nullptr;
  const void* outer_stack_ = nullptr;
  std::size_t outer_bytes_ = 0;
};

}  // namespace yard::emulation
