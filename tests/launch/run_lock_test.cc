#include "launch/run_lock.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "core/error.h"
#include "launch/environment.h"
#include "tests/support/support.h"

using namespace yard;
using testing::HasSubstr;
namespace fs = std::filesystem;

namespace {

std::string refusal(const std::string& folder) {
  try {
    const RunLock lock(folder);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

/// A process that holds the lock of a folder until it is killed.
class Holder {
 public:
  explicit Holder(const std::string& folder) {
    int ready[2];
    if (::pipe(ready) != 0) return;
    process_ = ::fork();
    if (process_ == 0) {
      ::setenv("SLURM_JOB_ID", "4711", 1);
      const RunLock lock(folder);
      if (::fork() == 0) {  // a helper that outlives its parent, and that the test's output does not wait for
        ::close(STDOUT_FILENO);
        ::close(STDERR_FILENO);
        ::sleep(20);
      }
      if (::write(ready[1], "x", 1) == 1) ::sleep(60);
      ::_exit(0);
    }
    char byte = 0;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
    ::close(ready[1]);
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  ~Holder() { kill(); }
  void kill() {
    if (process_ <= 0) return;
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
    process_ = 0;
  }
  pid_t process() const { return process_; }

 private:
  pid_t process_ = 0;
};

TEST(RunLock, ASecondProcessIsToldWhoHasTheDirectory) {
  const test::TemporaryFolder folder;
  Holder holder(folder.path());
  const std::string process = std::to_string(holder.process());
  EXPECT_THAT(refusal(folder.path()), testing::MatchesRegex(folder.path() + " is in use by process " + process + " on host " + host_name() +
                                                            " .job 4711. since [0-9: +-]+; wait for it or choose another --run-dir"));
  fs::remove(folder / "lock.json");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("is in use by process " + process + ";"));
}

TEST(RunLock, AKilledProcessLeavesNoLock) {
  const test::TemporaryFolder folder;
  Holder holder(folder.path());
  holder.kill();
  EXPECT_TRUE(fs::exists(folder / "lock.json")) << "left behind by the kill";
  EXPECT_EQ(refusal(folder.path()), "") << "and it means nothing, although a child of the process lives";
}

TEST(RunLock, IsReleasedAtTheEnd) {
  const test::TemporaryFolder folder;
  {
    const RunLock lock(folder.path());
    EXPECT_EQ(lock.warning(), "");
    EXPECT_TRUE(fs::exists(folder / "lock.json"));
  }
  EXPECT_FALSE(fs::exists(folder / "lock.json"));
  Holder holder(folder.path());
  EXPECT_NE(refusal(folder.path()), "");
}

}  // namespace
