#include "tests/cuda_emulation/fiber.h"

// Saves what a called function must keep (System V ABI; the floating-point modes are never changed) and takes the other side's stack. A
// switch takes a few nanoseconds, where ucontext's asks the system to change signal masks.
asm(R"(
.text
.globl yard_emulation_switch
.type yard_emulation_switch, @function
yard_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size yard_emulation_switch, . - yard_emulation_switch

.globl yard_emulation_begin
.type yard_emulation_begin, @function
yard_emulation_begin:
  movq %r12, %rdi
  callq *%r13
  ud2
.size yard_emulation_begin, . - yard_emulation_begin
)");
extern "C" void yard_emulation_switch(void** leaving, void* to);
extern "C" void yard_emulation_begin();

namespace yard::emulation {
namespace {

class Registers final : public Machine {
 public:
  Registers(std::byte* stack, std::size_t bytes, void (*function)(void*), void* argument) {
    // As if yard_emulation_begin had been left by the switch: six registers below its address, which lies so that the stack is aligned to
    // 16 where it calls.
    auto** top = reinterpret_cast<void**>(stack + bytes);
    void** frame = top - 9;
    for (int i = 0; i < 9; ++i) frame[i] = nullptr;
    frame[2] = reinterpret_cast<void*>(function);  // r13
    frame[3] = argument;                           // r12
    frame[6] = reinterpret_cast<void*>(&yard_emulation_begin);
    inside_ = frame;
  }
  void go_in() override { yard_emulation_switch(&outside_, inside_); }
  void go_out() override { yard_emulation_switch(&inside_, outside_); }

 private:
  void* inside_ = nullptr;
  void* outside_ = nullptr;
};

}  // namespace

std::unique_ptr<Machine> make_machine(std::byte* stack, std::size_t bytes, void (*function)(void*), void* argument) {
  return std::make_unique<Registers>(stack, bytes, function, argument);
}

}  // namespace yard::emulation
