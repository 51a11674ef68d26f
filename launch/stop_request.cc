#include "launch/stop_request.h"

#include <pthread.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstring>

#include "core/error.h"

namespace yard {

StopRequest::StopRequest(std::optional<double> exit_after) : exit_after_(exit_after) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGUSR1);
  const int failure = pthread_sigmask(SIG_BLOCK, &set, nullptr);
  check(failure == 0, "cannot keep SIGTERM and SIGUSR1 waiting: ", std::strerror(failure));
  signals_ = FileDescriptor(::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!signals_) fail("cannot wait for signals: ", std::strerror(errno));
}

int StopRequest::pending() {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) came_ = static_cast<int>(info.ssi_signo);
  if (came_ == 0 && exit_after_ && seconds_between(start_, Clock::now()) >= *exit_after_) came_ = kTimeIsUp;
  return came_;
}

std::string StopRequest::reason(int pending) {
  if (pending == kTimeIsUp) return "the time of --exit-after is up";
  return std::string(pending == SIGTERM ? "SIGTERM" : "SIGUSR1") + " came";
}

double parse_duration(const std::string& text, const std::string& option) {
  double value = 0;
  const char* const last = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), last, value);
  const std::string unit(rest, last);
  const double factor = unit.empty() || unit == "s" ? 1 : unit == "m" ? 60 : unit == "h" ? 3600 : unit == "d" ? 86400 : 0;
  check_input(error == std::errc() && factor > 0 && value > 0 && std::isfinite(value), "", option, " '", text,
              "' is no time: write seconds, or a number with s, m, h or d behind it, such as 55m");
  return value * factor;
}

}  // namespace yard
