#include "tests/cuda_emulation/fiber.h"

#include <sys/mman.h>

#include <new>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace yard::emulation {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kStack = std::size_t{128} << 10;  // of addresses; memory is taken as it is touched

std::vector<const std::byte*>& mappings() {
  thread_local std::vector<const std::byte*> all;
  return all;
}

void leave(void** frames, const void* stack, std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(frames, stack, bytes);
#else
  (void)frames, (void)stack, (void)bytes;
#endif
}

void arrive(void* frames, const void** stack, std::size_t* bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(frames, stack, bytes);
#else
  (void)frames, (void)stack, (void)bytes;
#endif
}

}  // namespace

Fiber::Fiber(void (*function)(void*), void* argument) : function_(function), argument_(argument) {
  void* mapping = mmap(nullptr, kPage + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (mapping == MAP_FAILED || mprotect(mapping, kPage, PROT_NONE) != 0) throw std::bad_alloc();
  mapping_ = static_cast<std::byte*>(mapping);
  mappings().push_back(mapping_);
  machine_ = make_machine(mapping_ + kPage, kStack, &Fiber::enter, this);
}

Fiber::~Fiber() { munmap(mapping_, kPage + kStack); }

void Fiber::enter(void* fiber) {
  auto* self = static_cast<Fiber*>(fiber);
  arrive(nullptr, &self->outer_stack_, &self->outer_bytes_);
  self->function_(self->argument_);
}

void Fiber::resume() {
  leave(&outer_frames_, mapping_ + kPage, kStack);
  machine_->go_in();
  arrive(outer_frames_, nullptr, nullptr);
}

void Fiber::yield() {
  leave(&own_frames_, outer_stack_, outer_bytes_);
  machine_->go_out();
  arrive(own_frames_, &outer_stack_, &outer_bytes_);
}

bool Fiber::overflowed(const void* address) {
  const auto* at = static_cast<const std::byte*>(address);
  for (const std::byte* mapping : mappings()) {
    if (at >= mapping && at < mapping + kPage) return true;
  }
  return false;
}

}  // namespace yard::emulation
