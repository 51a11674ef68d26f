#pragma once

#include <cstddef>

#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>  // its macros do nothing without the sanitizer
#endif

namespace yard::emulation {

/// Tells the address sanitizer, where there is one, that nobody may touch these bytes.
inline void poison([[maybe_unused]] const void* at, [[maybe_unused]] std::size_t bytes) {
#ifdef ASAN_POISON_MEMORY_REGION
  ASAN_POISON_MEMORY_REGION(at, bytes);
#endif
}

/// Takes it back.
inline void unpoison([[maybe_unused]] const void* at, [[maybe_unused]] std::size_t bytes) {
#ifdef ASAN_UNPOISON_MEMORY_REGION
  ASAN_UNPOISON_MEMORY_REGION(at, bytes);
#endif
}

}  // namespace yard::emulation
