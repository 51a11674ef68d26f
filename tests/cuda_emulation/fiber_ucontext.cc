#include <ucontext.h>

#include <cstdint>

#include "tests/cuda_emulation/fiber.h"

namespace yard::emulation {
namespace {

class Ucontext final : public Machine {
 public:
  Ucontext(std::byte* stack, std::size_t bytes, void (*function)(void*), void* argument) : function_(function), argument_(argument) {
    getcontext(&inside_);
    inside_.uc_stack.ss_sp = stack;
    inside_.uc_stack.ss_size = bytes;
    inside_.uc_link = nullptr;
    // makecontext passes ints: the address goes in two of them.
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&inside_, reinterpret_cast<void (*)()>(&Ucontext::enter), 2, static_cast<unsigned>(self >> 32),
                static_cast<unsigned>(self));
  }
  void go_in() override { swapcontext(&outside_, &inside_); }
  void go_out() override { swapcontext(&inside_, &outside_); }

 private:
  static void enter(unsigned high, unsigned low) {
    auto* self = reinterpret_cast<Ucontext*>((static_cast<std::uintptr_t>(high) << 32) | low);
    self->function_(self->argument_);
  }
  void (*function_)(void*);
  void* argument_;
  ucontext_t inside_{}, outside_{};
};

}  // namespace

std::unique_ptr<Machine> make_machine(std::byte* stack, std::size_t bytes, void (*function)(void*), void* argument) {
  return std::make_unique<Ucontext>(stack, bytes, function, argument);
}

}  // namespace yard::emulation
