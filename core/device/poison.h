#pragma once

#include <cstddef>

#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>  // its macros do nothing without the sanitizer
#endif

namespace yard {

/// Tells the address sanitizer, where there is one, that nobody may touch these bytes.
inline void forbid([[maybe_unused]] const void* block, [[maybe_unused]] std::size_t bytes) {
#ifdef ASAN_POISON_MEMORY_REGION
  ASAN_POISON_MEMORY_REGION(block, bytes);
#endif
}

/// Takes `forbid` back.
inline void allow([[maybe_unused]] const void* block, [[maybe_unused]] std::size_t bytes) {
#ifdef ASAN_UNPOISON_MEMORY_REGION
  ASAN_UNPOISON_MEMORY_REGION(block, bytes);
#endif
}

}  // namespace yard
