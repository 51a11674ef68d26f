#include "launch/run_log.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "core/io/file.h"

namespace yard {

namespace {
constexpr std::string_view kClearLine = "\r\x1b[K";
constexpr int kScreenMilliseconds = 1000;  // that a screen may take before a line is dropped

/// Whether the stdout of the process that started this one is a terminal; no where it cannot be seen.
bool parent_has_terminal() {
  const std::string path = "/proc/" + std::to_string(::getppid()) + "/fd/1";
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || !S_ISCHR(status.st_mode)) return false;
  const FileDescriptor parent(::open(path.c_str(), O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
  return static_cast<bool>(parent) && ::isatty(parent.get()) == 1;
}

/// mpirun gives every rank a pseudo-terminal whatever its own stdout is: there the question is what mpirun writes to, unless whoever
/// started it has said so.
bool is_terminal(int screen) {
  if (::isatty(screen) != 1) return false;
  if (const char* told = std::getenv("SWITCHYARD_TERMINAL")) return std::string_view(told) != "0";
  return std::getenv("OMPI_COMM_WORLD_RANK") == nullptr || parent_has_terminal();
}
}  // namespace

RunLog::RunLog(int screen) : screen_(screen), terminal_(is_terminal(screen)) {}

RunLog::~RunLog() { end_status(); }

void RunLog::show(std::string_view bytes) {
  // The screen may be a full disk; training continues, and check_screen() reports it at the end.
  while (screen_ >= 0 && !bytes.empty()) {
    const ssize_t count = ::write(screen_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) {
      pollfd writable{screen_, POLLOUT, 0};
      if (::poll(&writable, 1, kScreenMilliseconds) != 0) continue;
    }
    if (count <= 0) {
      screen_error_ = errno;
      return;
    }
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
}

int RunLog::columns() const {
  winsize size{};
  if (terminal_ && ::ioctl(screen_, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

void RunLog::check_screen() const {
  if (screen_error_ != 0)
    fail("cannot write to stdout: ", std::strerror(screen_error_), file_ ? "; the lines are in " + file_->path() : "");
}

void RunLog::open(const std::string& run_directory) {
  if (silent()) return;
  file_ = std::make_unique<AppendFile>(run_directory + "/log.txt");
  file_->write(early_);
  early_.clear();
}

void RunLog::line(std::string_view text) {
  if (silent()) return;
  std::string bytes;
  if (!status_.empty()) bytes += kClearLine;
  bytes.append(text).append("\n").append(status_);
  show(bytes);
  file_line(text);
}

void RunLog::file_line(std::string_view text) {
  if (silent()) return;
  std::string bytes(text);
  bytes += '\n';
  if (file_) {
    file_->write(bytes);
  } else {
    early_ += bytes;
  }
}

void RunLog::status(std::string_view text) {
  if (!terminal_) return;
  // One column stays free: some terminals go to the next line as soon as the last one is used.
  const auto room = static_cast<std::size_t>(std::max(1, columns() - 1));
  status_ = text.substr(0, room);
  std::string bytes(kClearLine);
  bytes += status_;
  show(bytes);
}

void RunLog::end_status() {
  if (status_.empty()) return;
  show("\n");
  status_.clear();
}

}  // namespace yard
