#include "launch/output.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <iostream>

#include "core/error.h"

namespace yard {

Output::Output() : before_(std::cout.rdbuf(this)) { setp(buffer_.data(), buffer_.data() + buffer_.size()); }

Output::~Output() {
  put();  // what was written before an error
  std::cout.rdbuf(before_);
}

void Output::finish() {
  put();
  if (error_ != 0) fail("cannot write to stdout: ", std::strerror(error_));
}

Output::int_type Output::overflow(int_type next) {
  put();
  if (!traits_type::eq_int_type(next, traits_type::eof())) sputc(traits_type::to_char_type(next));
  return traits_type::not_eof(next);
}

int Output::sync() {
  put();
  return 0;
}

void Output::put() {
  const char* next = pbase();
  const char* const last = pptr();
  setp(buffer_.data(), buffer_.data() + buffer_.size());
  while (next < last && error_ == 0) {
    const ssize_t count = ::write(STDOUT_FILENO, next, static_cast<std::size_t>(last - next));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EPIPE) {  // the reader has seen enough; here where SIGPIPE is ignored
      std::signal(SIGPIPE, SIG_DFL);
      std::raise(SIGPIPE);
    }
    if (count < 0 && errno == EAGAIN) {  // somebody made the pipe or terminal non-blocking
      pollfd writable{STDOUT_FILENO, POLLOUT, 0};
      ::poll(&writable, 1, -1);
      continue;
    }
    if (count < 0) error_ = errno;
    next += std::max<ssize_t>(0, count);
  }
}

void open_standard_descriptors() {
  // The lowest free number is taken, in this order. A descriptor opened the wrong way round fails with "Bad file descriptor".
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(descriptor, F_GETFD) >= 0 || errno != EBADF) continue;
    const int opened = ::open("/dev/null", descriptor == STDERR_FILENO ? O_WRONLY : O_RDONLY);
    if (opened >= 0 && opened != descriptor) ::close(opened);
  }
}

}  // namespace yard
