#include "tests/support/two_machines.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/support/support.h"

namespace yard::test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCable = "cable0";  // its name on both machines

std::string network_of(pid_t process) {
  std::error_code failed;
  return fs::read_symlink("/proc/" + std::to_string(process) + "/ns/net", failed).string();
}

}  // namespace

TwoMachines::TwoMachines(const std::string& folder) : folder_(folder), agent_(folder + "/enter-machine") {
  std::string entries;
  for (std::size_t i = 0; i < machines_.size(); ++i) {
    machines_[i].host = "yard" + std::to_string(getpid()) + (i == 0 ? "-a" : "-b");
    if (!start(machines_[i])) return;
    entries += "  " + machines_[i].host + ") on=" + std::to_string(machines_[i].holder) + " ;;\n";
  }
  std::ofstream(agent_) << "#!/bin/sh\n# enter-machine HOST WORDS...: as ssh does, has a shell there read the words.\ncase $1 in\n"
                        << entries << "  *) echo \"there is no machine $1\" >&2; exit 255 ;;\nesac\nshift\n"
                        << "exec nsenter --target $on --net --uts -- sh -c \"$*\"\n";
  fs::permissions(agent_, fs::perms::owner_all);
  std::string commands =
      fmt::format("ip link add {} netns {} type veth peer name {} netns {}", kCable, machines_[0].holder, kCable, machines_[1].holder);
  for (int i = 0; i < 2; ++i) {
    commands += " && " + on(i, fmt::format("ip addr add 10.213.7.{}/24 dev {}", i + 1, kCable));
    commands += " && " + on(i, fmt::format("ip link set {} up", kCable)) + " && " + on(i, "ip link set lo up");
  }
  const CommandResult result = run_command(commands);
  if (result.code != 0) why_not_ = "the network between two namespaces cannot be set up: " + result.err;
}

/// A process that does nothing but keep the namespaces of one machine.
bool TwoMachines::start(Machine& machine) {
  std::array<int, 2> ready{};
  if (pipe2(ready.data(), O_CLOEXEC) != 0) {
    why_not_ = std::string("no pipe: ") + std::strerror(errno);
    return false;
  }
  const pid_t parent = getpid();
  machine.holder = fork();
  if (machine.holder == 0) {
    int error = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (unshare(CLONE_NEWNET | CLONE_NEWUTS) != 0 || sethostname(machine.host.data(), machine.host.size()) != 0) error = errno;
    [[maybe_unused]] const ssize_t told = write(ready[1], &error, sizeof error);
    close_range(0, ~0U, 0);
    while (error == 0 && getppid() == parent) pause();
    _exit(0);
  }
  close(ready[1]);
  int error = ECHILD;
  if (machine.holder < 0 || read(ready[0], &error, sizeof error) != sizeof error || error != 0) {
    why_not_ = std::string("namespaces of a machine cannot be made here: ") + std::strerror(error);
  }
  close(ready[0]);
  if (why_not_.empty()) machine.network = network_of(machine.holder);
  return why_not_.empty();
}

std::string TwoMachines::on(int machine, const std::string& command) const {
  return fmt::format("nsenter --target {} --net --uts -- {}", machines_.at(static_cast<std::size_t>(machine)).holder, command);
}

std::string TwoMachines::mpirun(int ranks, const std::string& program) const {
  // Between machines Open MPI loads modules that it unloads again, so that what they leak has no name by which it could be excused.
  return fmt::format(
      "{} -q -np {} --host {}:{},{}:{} --bind-to none --mca plm_rsh_agent {} --mca btl self,tcp --mca btl_tcp_if_include {} "
      "--mca oob_tcp_if_include {} --mca mpi_yield_when_idle 1 --mca orte_tmpdir_base {} -x ASAN_OPTIONS=detect_leaks=0 {}",
      YARD_MPIRUN, 2 * ranks, host(0), ranks, host(1), ranks, agent_, kCable, kCable, folder_, program);
}

void TwoMachines::cut() {
  const CommandResult result = run_command(on(1, fmt::format("ip link set {} down", kCable)));
  EXPECT_EQ(result.code, 0) << result.err;
}

std::vector<pid_t> TwoMachines::residents() const {
  std::vector<pid_t> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const auto process = static_cast<pid_t>(std::stol(name));
    const std::string network = network_of(process);
    for (const Machine& machine : machines_) {
      if (!network.empty() && network == machine.network && process != machine.holder) found.push_back(process);
    }
  }
  return found;
}

std::vector<std::string> TwoMachines::processes() const {
  std::vector<std::string> commands;
  for (const pid_t process : residents()) {
    std::ifstream file("/proc/" + std::to_string(process) + "/cmdline", std::ios::binary);
    std::string command{std::istreambuf_iterator<char>(file), {}};
    for (char& letter : command) letter = letter == '\0' ? ' ' : letter;
    commands.push_back(std::to_string(process) + " " + command);
  }
  return commands;
}

TwoMachines::~TwoMachines() {
  // Who is still on a machine was started there by this test; a process that is only leaving needs a moment.
  for (int tries = 0; tries < 100; ++tries) {
    const std::vector<pid_t> left = residents();
    if (left.empty()) break;
    for (const pid_t process : left) kill(process, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  for (const Machine& machine : machines_) {
    if (machine.holder <= 0) continue;
    kill(machine.holder, SIGKILL);
    waitpid(machine.holder, nullptr, 0);
  }
}

}  // namespace yard::test
