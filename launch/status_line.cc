#include "launch/status_line.h"

#include <unistd.h>

#include <iostream>

namespace yard {

StatusLine::StatusLine() : terminal_(::isatty(STDERR_FILENO) == 1) {}

StatusLine::~StatusLine() {
  if (shown_) std::cerr << "\r\033[K" << std::flush;
}

void StatusLine::show(const std::string& text) {
  const auto now = std::chrono::steady_clock::now();
  if (!terminal_ || now < next_) return;
  std::cerr << '\r' << text << "\033[K" << std::flush;
  shown_ = true;
  next_ = now + std::chrono::milliseconds(100);
}

}  // namespace yard
