#include "tests/cuda_emulation/options.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>

#include "core/random.h"

namespace yard::emulation {
namespace {

void parse_order(const std::string& text, Options& to) {
  const std::string shuffled = "shuffled:";
  if (text == "forward") {
    to.order = Order::forward;
  } else if (text == "reverse") {
    to.order = Order::reverse;
  } else if (text.rfind(shuffled, 0) == 0 && text.size() > shuffled.size()) {
    to.order = Order::shuffled;
    to.seed = std::strtoull(text.c_str() + shuffled.size(), nullptr, 10);
  } else {
    fault("SWITCHYARD_EMULATION_ORDER is '" + text + "'; it can be forward, reverse or shuffled:SEED");
  }
}

Options from_environment() {
  Options result;
  if (const char* order = std::getenv("SWITCHYARD_EMULATION_ORDER")) parse_order(order, result);
  result.cores = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1U, 16U));
  if (const char* cores = std::getenv("SWITCHYARD_EMULATION_CORES")) result.cores = std::clamp(std::atoi(cores), 1, 64);
  return result;
}

void write_all(const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t wrote = ::write(STDERR_FILENO, text.data() + done, text.size() - done);
    if (wrote <= 0) return;
    done += static_cast<std::size_t>(wrote);
  }
}

}  // namespace

Options& options() {
  static Options result = from_environment();
  return result;
}

void set_order(const std::string& text) { parse_order(text, options()); }

Draws::Draws() : state_(0) {
  static std::atomic<std::uint64_t> made = 0;
  state_ = key_of(options().seed, made++);
}

std::uint32_t Draws::below(std::uint32_t bound) {
  state_ = mix(state_);
  return static_cast<std::uint32_t>((state_ >> 32) * bound >> 32);
}

void fault(const std::string& sentence) {
  write_all("CUDA emulation: " + sentence + "\n");
  std::abort();
}

}  // namespace yard::emulation
