#pragma once

#include <sys/types.h>

#include <array>
#include <string>
#include <vector>

namespace yard::test {

/// Two machines within this one: two namespaces, each with its own network and host name, joined by a cable (a veth pair that exists in
/// these namespaces alone). They go with this object, and also when the test program is killed, since nothing but processes holds them.
/// File systems and processes are shared, as they are between the machines of a cluster with one file server.
class TwoMachines {
 public:
  /// `folder` takes the launch agent through which mpirun reaches the other machine, and what a daemon that is killed leaves.
  explicit TwoMachines(const std::string& folder);
  ~TwoMachines();
  TwoMachines(const TwoMachines&) = delete;
  TwoMachines& operator=(const TwoMachines&) = delete;

  /// Why there are none: namespaces need rights. Empty when all is well.
  const std::string& why_not() const noexcept { return why_not_; }
  const std::string& host(int machine) const { return machines_.at(static_cast<std::size_t>(machine)).host; }
  /// How a shell starts a command on a machine.
  std::string on(int machine, const std::string& command) const;
  /// How a shell on machine 0 starts `ranks` of a program on each machine.
  std::string mpirun(int ranks, const std::string& program) const;
  /// Takes the cable out of machine 1.
  void cut();
  /// The commands of the processes that run on the two machines, without the ones that hold them.
  std::vector<std::string> processes() const;

 private:
  struct Machine {
    std::string host;
    pid_t holder = 0;
    std::string network;  // what /proc/PID/ns/net of its processes points to
  };
  bool start(Machine& machine);
  std::vector<pid_t> residents() const;
  std::array<Machine, 2> machines_;
  std::string folder_, agent_, why_not_;
};

}  // namespace yard::test
