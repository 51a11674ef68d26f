#include "comm/launcher_guard.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

extern "C" {  // which the header of glibc 2.36 does not say itself
#include <sys/pidfd.h>
}

namespace yard {
namespace {

constexpr int kTerminationMilliseconds = 2000;  // time for a daemon to exit after SIGTERM

pid_t parent_of(pid_t process) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  for (std::string word; status >> word;) {
    pid_t parent = 0;
    if (word == "PPid:" && status >> parent) return parent;
  }
  return 0;
}

std::string program_of(pid_t process) {
  std::error_code failed;
  return std::filesystem::read_symlink("/proc/" + std::to_string(process) + "/exe", failed).filename().string();
}

struct Launcher {
  pid_t process = 0;
  bool daemon = false;
};

/// The nearest ancestor of this process that is an Open MPI program; a script or `timeout` may run in between.
Launcher find_launcher() {
  constexpr std::array<std::string_view, 5> kFronts = {"orterun", "mpirun", "mpiexec", "prterun", "prte"};
  constexpr std::array<std::string_view, 2> kDaemons = {"orted", "prted"};
  constexpr int kGenerations = 8;
  pid_t process = getppid();
  for (int i = 0; i < kGenerations && process > 1; ++i, process = parent_of(process)) {
    const std::string program = program_of(process);
    if (std::find(kFronts.begin(), kFronts.end(), program) != kFronts.end()) return {process, false};
    if (std::find(kDaemons.begin(), kDaemons.end(), program) != kDaemons.end()) return {process, true};
  }
  return {};
}

/// The helper's main function. It closes all descriptors but the handle, so that no process waits for it to close a pipe.
[[noreturn]] void guard(int handle, bool daemon, int milliseconds) {
  setsid();  // mpirun signals a rank's process group
  if (handle > 0) close_range(0, static_cast<unsigned>(handle) - 1, 0);
  close_range(static_cast<unsigned>(handle) + 1, ~0U, 0);
  pollfd ended{handle, POLLIN, 0};
  if (poll(&ended, 1, milliseconds) == 0) {
    // A daemon cleans up after SIGTERM. In this state mpirun would print a trace of its own crash after the watchdog's last line.
    if (daemon && pidfd_send_signal(handle, SIGTERM, nullptr, 0) == 0 && poll(&ended, 1, kTerminationMilliseconds) != 0) _exit(0);
    pidfd_send_signal(handle, SIGKILL, nullptr, 0);
  }
  _exit(0);
}

}  // namespace

void guard_launcher(double seconds) noexcept {
  try {
    const Launcher launcher = find_launcher();
    if (launcher.process <= 1) return;
    const int handle = pidfd_open(launcher.process, 0);
    if (handle < 0) return;
    if (fork() == 0) guard(handle, launcher.daemon, static_cast<int>(seconds * 1000));
    close(handle);
  } catch (...) {  // NOLINT(bugprone-empty-catch): the job ends anyway, only later
  }
}

}  // namespace yard
