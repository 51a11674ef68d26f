#include "launch/bus_error.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <string_view>

namespace yard {
namespace {

// All of this runs in a signal handler: only async-signal-safe calls, and no memory but the stack's.

void print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(STDERR_FILENO, text.data(), text.size());
    if (count <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
}

/// The number in hexadecimal digits that a text begins with, which are removed.
std::uintptr_t take_address(std::string_view& text) {
  std::uintptr_t value = 0;
  for (; !text.empty(); text.remove_prefix(1)) {
    const char c = text.front();
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) break;
    value = value * 16 + static_cast<std::uintptr_t>(digit);
  }
  return value;
}

/// The path in a line of /proc/self/maps whose range contains an address; empty for other lines.
std::string_view mapped_at(std::string_view line, std::uintptr_t address) {
  const std::uintptr_t first = take_address(line);
  if (line.empty()) return {};
  line.remove_prefix(1);
  const std::uintptr_t last = take_address(line);
  if (address < first || address >= last) return {};
  const std::size_t path = line.find('/');
  return path == std::string_view::npos ? std::string_view() : line.substr(path);
}

void handle(int /*signal*/, siginfo_t* info, void* /*context*/) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  std::array<char, 8192> buffer;  // NOLINT(cppcoreguidelines-pro-type-member-init): a path has at most 4096 bytes
  std::size_t length = 0;
  std::string_view path;
  const int maps = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  while (maps >= 0 && path.empty()) {
    const ssize_t count = ::read(maps, buffer.data() + length, buffer.size() - length);
    if (count <= 0) break;
    length += static_cast<std::size_t>(count);
    std::string_view text(buffer.data(), length);
    for (std::size_t end = text.find('\n'); end != std::string_view::npos && path.empty(); end = text.find('\n')) {
      path = mapped_at(text.substr(0, end), address);
      text.remove_prefix(end + 1);
    }
    if (path.empty()) {
      for (std::size_t i = 0; i < text.size(); ++i) buffer[i] = text[i];  // the beginning of the next line
      length = text.size();
    }
  }
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");  // NOLINT(concurrency-mt-unsafe): the environment does not change
  if (rank != nullptr) {
    print("rank ");
    print(rank);
  } else {
    print("switchyard");
  }
  print(": cannot access ");
  print(path.empty() ? "memory that is mapped" : path);
  print(" (SIGBUS): it became shorter after it was opened, its disk failed or its file system is full; restore it and start again\n");
  ::_exit(1);
}

}  // namespace

void report_bus_errors() {
  struct sigaction action {};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace yard
