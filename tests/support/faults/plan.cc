#include "tests/support/faults/plan.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <map>
#include <sstream>
#include <stdexcept>

namespace yard::faults {
namespace {

const std::map<std::string, Plan::Verdict>& actions() {
  using Action = Plan::Action;
  static const std::map<std::string, Plan::Verdict> known = {
      {"kill", {Action::kill, 0}},
      {"kill-after", {Action::kill_after, 0}},
      {"kill-half", {Action::kill_half, 0}},
      {"stall", {Action::stall, 0}},
      {"fail:ENOSPC", {Action::fail, ENOSPC}},
      {"fail:EIO", {Action::fail, EIO}},
      {"fail-once:EINTR", {Action::fail_once, EINTR}},
      {"short", {Action::shorten, ENOSPC}},
      {"half", {Action::half, 0}},
      {"signal:USR1", {Action::signal, SIGUSR1}},
      {"signal:TERM", {Action::signal, SIGTERM}},
      {"signal-parent:USR1", {Action::signal_parent, SIGUSR1}},
      {"signal-parent:TERM", {Action::signal_parent, SIGTERM}},
      {"poison", {Action::poison, 0}},
      {"note", {Action::note, 0}},
  };
  return known;
}

/// As many last parts of a path as the pattern has.
std::string tail(const std::string& path, const std::string& pattern) {
  auto parts = std::count(pattern.begin(), pattern.end(), '/');
  std::size_t end = path.size();
  while (end > 1 && path[end - 1] == '/') --end;
  std::size_t from = end;
  while (from > 0 && (path[from - 1] != '/' || parts-- > 0)) --from;
  return path.substr(from, end - from);
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

[[noreturn]] void die() {
  ::kill(::getpid(), SIGKILL);
  for (;;) ::pause();
}

}  // namespace

Plan::Plan(const std::string& text, int rank, std::string report) : rank_(rank), report_(std::move(report)) {
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (stages_.empty()) stages_.emplace_back();
    if (word == "then") {
      stages_.emplace_back();
    } else {
      const std::size_t equals = word.find('=');
      if (equals == std::string::npos) throw std::invalid_argument("YARD_FAULT: '" + word + "' is not KEY=VALUE");
      set(word.substr(0, equals), word.substr(equals + 1), stages_.back());
    }
  }
  if (!stages_.empty() && verdict_.action == Action::none) throw std::invalid_argument("YARD_FAULT: there is no do=ACTION");
}

void Plan::set(const std::string& key, const std::string& value, Stage& stage) {
  if (key == "rank") {
    wanted_rank_ = std::stoi(value);
  } else if (key == "at") {
    stage.call = value;
  } else if (key == "file") {
    stage.pattern = value;
  } else if (key == "count") {
    stage.count = std::stoul(value);
  } else if (key == "do" && actions().contains(value)) {
    verdict_ = actions().at(value);
    word_ = value;
  } else {
    throw std::invalid_argument("YARD_FAULT: there is no " + key + "=" + value);
  }
}

Plan& Plan::of_process() {
  // Nobody can hand an object to functions that stand in for those of the C library, and threads may write until the very end: it is never
  // destroyed.
  static Plan& plan = *[] {
    const std::string rank = variable("OMPI_COMM_WORLD_RANK");
    return new Plan(variable("YARD_FAULT"), rank.empty() ? 0 : std::stoi(rank), variable("YARD_FAULT_REPORT"));
  }();
  return plan;
}

void Plan::tell(const std::string& call, const std::string& path) const {
  const std::string line = "rank " + std::to_string(rank_) + " " + call + " " + path + " " + word_ + "\n";
  // Past our own stand-ins, which would call this again.
  const long file = ::syscall(SYS_openat, AT_FDCWD, report_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file < 0) return;
  (void)::syscall(SYS_write, file, line.data(), line.size());
  (void)::syscall(SYS_close, file);
}

Plan::Verdict Plan::meet(const std::string& call, const std::string& path) {
  if (stages_.empty() || (wanted_rank_ >= 0 && wanted_rank_ != rank_)) return {};
  {
    const std::lock_guard lock(mutex_);
    const bool over = stage_ == stages_.size();
    const Stage& stage = stages_[over ? stage_ - 1 : stage_];
    if (call != stage.call || ::fnmatch(stage.pattern.c_str(), tail(path, stage.pattern).c_str(), FNM_PATHNAME) != 0) return {};
    if (over) {
      const bool goes_on = verdict_.action == Action::fail || verdict_.action == Action::shorten;
      if (verdict_.action == Action::note) tell(call, path);
      return goes_on ? Verdict{Action::fail, verdict_.value} : Verdict{};
    }
    if (++met_ < stage.count) return {};
    met_ = 0;
    if (++stage_ < stages_.size()) return {};
    tell(call, path);
  }
  if (verdict_.action == Action::kill) die();
  if (verdict_.action == Action::stall) {
    for (;;) ::pause();
  }
  if (verdict_.action == Action::signal) ::kill(::getpid(), verdict_.value);
  if (verdict_.action == Action::signal_parent) ::kill(::getppid(), verdict_.value);
  return verdict_;
}

void Plan::after(Verdict verdict) {
  if (verdict.action == Action::kill_after || verdict.action == Action::kill_half) die();
}

std::string path_of(int descriptor) {
  std::array<char, 4096> text{};
  const std::string link = "/proc/self/fd/" + std::to_string(descriptor);
  const ssize_t length = ::readlink(link.c_str(), text.data(), text.size());
  return length < 0 ? "" : std::string(text.data(), static_cast<std::size_t>(length));
}

std::string path_of(int folder, const char* name) {
  if (folder == AT_FDCWD || name[0] == '/') return name;
  return path_of(folder) + "/" + name;
}

}  // namespace yard::faults
