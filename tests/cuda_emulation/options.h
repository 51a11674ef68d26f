#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace yard::emulation {

/// In which order things run that CUDA leaves open: the threads of a block between barriers, the blocks of a grid, streams among each
/// other.
enum class Order : std::uint8_t { forward, reverse, shuffled };

/// What SWITCHYARD_EMULATION_ORDER and _CORES say (README.md).
struct Options {
  Order order = Order::forward;
  std::uint64_t seed = 0;  // of a shuffled order
  int cores = 0;           // threads that run blocks
};

/// Read from the environment at the first call. A test may change them while nothing is queued.
Options& options();
/// "forward", "reverse" or "shuffled:SEED".
void set_order(const std::string& text);

/// Draws of a shuffled order; each sequence is a function of the seed and of how many were made before it.
class Draws {
 public:
  Draws();
  Draws(std::uint64_t key, std::uint64_t stream) : state_(key ^ (stream * 0x9e3779b97f4a7c15ULL)) {}
  /// A whole number in [0, bound).
  std::uint32_t below(std::uint32_t bound);

 private:
  std::uint64_t state_;
};

/// Says what is wrong and ends the process: a fault of the program that a GPU would answer with wrong numbers or a hang.
[[noreturn]] void fault(const std::string& sentence);

}  // namespace yard::emulation
