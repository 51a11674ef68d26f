#include "launch/run_mpirun.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "comm/mpi.h"
#include "core/error.h"
#include "launch/environment.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): POSIX says that no header need declare it

namespace yard {
namespace {

/// Variables with which one launcher would mislead another.
bool of_a_launcher(std::string_view variable) {
  constexpr std::array<std::string_view, 9> kBeginnings = {"OMPI_", "PMIX_", "PMI_",   "PMI2_",  "ORTE_",
                                                           "PRTE_", "OPAL_", "SLURM_", "SLURMD_"};
  for (const std::string_view beginning : kBeginnings) {
    if (variable.substr(0, beginning.size()) == beginning) return true;
  }
  return false;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> list;
  for (std::string& word : words) list.push_back(word.data());
  list.push_back(nullptr);
  return list;
}

std::vector<std::string> full_command(const RankedCommand& command) {
  std::vector<std::string> words;
  if (command.ranks > 1) {
    words = {"mpirun", "-q", "-np", std::to_string(command.ranks), "--oversubscribe", "--bind-to", "none"};
    // Containers may lack process_vm_readv.
    words.insert(words.end(), {"--mca", "btl_vader_single_copy_mechanism", "none", "--mca", "orte_abort_print_stack", "0"});
    if (command.ranks > allowed_core_count()) words.insert(words.end(), {"--mca", "mpi_yield_when_idle", "1"});
    if (::geteuid() == 0) words.emplace_back("--allow-run-as-root");
  }
  words.push_back(std::filesystem::read_symlink("/proc/self/exe").string());
  words.insert(words.end(), command.arguments.begin(), command.arguments.end());
  return words;
}

}  // namespace

bool may_start_mpirun(const std::string& command) {
  if (!MpiRuntime::launched()) return true;
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    const char* rank = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets variables
    if (rank != nullptr && std::strcmp(rank, "0") != 0) return false;
  }
  fail_input("the command ", command, " starts mpirun itself: start it by hand, not under mpirun or srun");
}

int run_ranks(const RankedCommand& command) {
  std::vector<std::string> words = full_command(command);
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (!of_a_launcher(*variable)) variables.emplace_back(*variable);
  }
  const std::vector<char*> argv = pointers(words);
  const std::vector<char*> environment = pointers(variables);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, command.out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, command.err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  check(error != ENOENT || command.ranks == 1, "mpirun is not installed or not in PATH; apt-get install openmpi-bin brings it");
  check(error == 0, "cannot run ", words[0], ": ", std::strerror(error));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) check(errno == EINTR, "cannot wait for ", words[0], ": ", std::strerror(errno));
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string sentence_of_failure(const std::string& err) {
  std::ifstream file(err);
  std::string last = "it said nothing";
  const std::string_view ours = "switchyard: ";
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, ours.size(), ours) == 0) return line.substr(ours.size());
    if (line.compare(0, 5, "rank ") == 0) return line;
    if (line.find_first_not_of(" -\t") != std::string::npos) last = line;
  }
  return last;
}

}  // namespace yard
