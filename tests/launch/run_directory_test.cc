#include "launch/run_directory.h"

#include <gmock/gmock.h>
#include <sched.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/error.h"
#include "launch/build_info.h"
#include "launch/environment.h"
#include "launch/run_log.h"
#include "tests/support/support.h"

using namespace yard;
using testing::HasSubstr;
namespace fs = std::filesystem;

namespace {
std::string content(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Goes into a folder and comes back at the end.
class Inside {
 public:
  explicit Inside(const std::string& folder) : before_(fs::current_path()) { fs::current_path(folder); }
  ~Inside() { fs::current_path(before_); }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  fs::path before_;
};

std::string refusal(const std::string& wanted) {
  try {
    make_run_directory(wanted, "c.textproto");
  } catch (const InputError& error) {
    return error.what();
  }
  return "nothing was refused";
}

TEST(RunDirectory, IsNamedAfterTheConfigurationAndNeverShared) {
  const test::TemporaryFolder folder;
  const Inside inside(folder.path());
  std::vector<std::string> made;
  for (int i = 0; i < 3; ++i) made.push_back(make_run_directory("", "some/quick.textproto"));
  for (const std::string& path : made) {
    EXPECT_THAT(path, testing::MatchesRegex("runs/quick-[0-9]{8}-[0-9]{6}(-[0-9]+)?"));
    EXPECT_TRUE(fs::is_directory(path));
    EXPECT_TRUE(fs::is_empty(path)) << "the trial must not stay";
  }
  EXPECT_NE(made[0], made[1]);
  EXPECT_NE(made[1], made[2]);
}

TEST(RunDirectory, MayExistAndMayLieDeep) {
  const test::TemporaryFolder folder;
  EXPECT_EQ(make_run_directory(folder / "a/b/c", ""), folder / "a/b/c");
  std::ofstream(folder / "a/b/c/log.txt") << "before";
  EXPECT_EQ(make_run_directory(folder / "a/b/c", ""), folder / "a/b/c");
  EXPECT_EQ(content(folder / "a/b/c/log.txt"), "before");
}

TEST(RunDirectory, IsRefusedWhereNothingCanBeWritten) {
  const test::TemporaryFolder folder;
  std::ofstream(folder / "file") << "x";
  EXPECT_EQ(refusal(folder / "file"),
            "cannot write in the run directory " + (folder / "file") + ": Not a directory; give another with --run-dir");
  EXPECT_THAT(refusal(folder / "file/deeper"), HasSubstr("cannot write in the run directory " + (folder / "file/deeper")));
  EXPECT_THAT(refusal("/proc/self"), HasSubstr("cannot write in the run directory /proc/self: "));
  if (::geteuid() != 0) {
    fs::permissions(folder.path(), fs::perms::owner_read | fs::perms::owner_exec);
    EXPECT_THAT(refusal(folder.path()), HasSubstr("Permission denied"));
    fs::permissions(folder.path(), fs::perms::owner_all);
  }
}

TEST(RunLog, WritesToScreenAndFile) {
  const test::TemporaryFolder folder;
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  {
    RunLog log(pipe[1]);
    EXPECT_FALSE(log.terminal());
    log.line("before the folder is known");
    log.open(folder.path());
    log.line("after");
    log.file_line("only in the file");
    log.status("only on terminals");
  }
  ::close(pipe[1]);
  std::string screen(1000, ' ');
  screen.resize(static_cast<std::size_t>(::read(pipe[0], screen.data(), screen.size())));
  ::close(pipe[0]);
  EXPECT_EQ(screen, "before the folder is known\nafter\n");
  EXPECT_EQ(content(folder / "log.txt"), "before the folder is known\nafter\nonly in the file\n");
}

TEST(RunLog, TellsWhenTheFileCannotBeWritten) {
  const test::TemporaryFolder folder;
  fs::create_symlink("/dev/full", folder / "log.txt");
  RunLog log(STDERR_FILENO);
  log.open(folder.path());
  try {
    log.file_line("lost");
    FAIL() << "a full disk went unnoticed";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), "cannot write " + (folder / "log.txt") + ": No space left on device");
  }
}

TEST(RunLog, IsSilentOnOtherRanks) {
  const test::TemporaryFolder folder;
  RunLog log;
  log.open(folder.path());
  log.line("nobody hears this");
  log.status("nor this");
  EXPECT_TRUE(log.silent());
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Environment, BlockNamesEverything) {
  RunFacts facts;
  facts.mpi = "Open MPI v4.1.4, package: Debian\nmore";
  facts.processor = "A Processor";
  facts.precision = "bf16";
  facts.layout = "3 ranks: expert 3 x data 1";
  facts.threads = 5;
  facts.hosts = {"a", "a", "b"};
  facts.cores = {"0-1", "0-1", "0-1"};
  facts.command = "switchyard train";
  const std::string block = environment_block(facts);
  for (const std::string& line :
       {std::string("switchyard ") + kVersion + " (" + kCommit, std::string("mpi        Open MPI v4.1.4, package: Debian\n"),
        std::string("processor  A Processor\n"), std::string("hosts      a (ranks 0-1), b (rank 2)\n"), std::string("cores      0-1\n"),
        std::string("threads    5 a rank\n"), std::string("precision  bf16\n"), std::string("layout     3 ranks: expert 3 x data 1\n"),
        std::string("command    switchyard train\n")}) {
    EXPECT_THAT(block, HasSubstr(line));
  }
  EXPECT_THAT(block, testing::ContainsRegex("date +[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} [+-][0-9]{4}\n"));
}

TEST(Environment, ThreadsFollowTheCoresThatARankMayUse) {
  const std::string mine = allowed_cores();
  EXPECT_EQ(default_threads({mine}), allowed_core_count());
  EXPECT_EQ(default_threads({mine, "other"}), allowed_core_count());
  EXPECT_EQ(default_threads({mine, mine}), std::max(1, allowed_core_count() / 2));
  EXPECT_EQ(default_threads(std::vector<std::string>(1000, mine)), 1);

  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  EXPECT_EQ(allowed_core_count(), CPU_COUNT(&before));
  int core = 0;
  while (!CPU_ISSET(core, &before)) ++core;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(allowed_cores(), std::to_string(core));
  EXPECT_EQ(allowed_core_count(), 1);
  sched_setaffinity(0, sizeof before, &before);
  EXPECT_EQ(allowed_cores(), mine);
}
}  // namespace
