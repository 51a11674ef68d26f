#include "launch/run_directory.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <vector>

#include "core/error.h"
#include "launch/environment.h"

namespace yard {

namespace fs = std::filesystem;

namespace {
[[noreturn]] void refuse(const std::string& path, const std::string& reason) {
  fail_input("cannot write in the run directory ", path, ": ", reason, "; give another with --run-dir");
}

void make_folders(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (!error && !fs::is_directory(path)) error = std::make_error_code(std::errc::not_a_directory);
  if (error) refuse(path, error.message());
}

/// Tells also where rights say yes and the file system says no.
void check_writable(const std::string& path) {
  const std::string trial = path + "/.switchyard-" + std::to_string(::getpid());
  const int file = ::open(trial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file < 0) refuse(path, std::strerror(errno));
  ::close(file);
  ::unlink(trial.c_str());
}
}  // namespace

std::string make_run_directory(const std::string& wanted, const std::string& config_path) {
  std::string path = wanted;
  if (path.empty()) {
    make_folders("runs");
    const std::string stem = "runs/" + fs::path(config_path).stem().string() + "-" + compact_date_and_time();
    path = stem;
    std::error_code error;
    // Only a folder that did not exist is ours: two runs may start in the same second.
    for (int number = 2; !fs::create_directory(path, error); ++number) {
      if (error) refuse(path, error.message());
      path = stem + "-" + std::to_string(number);
    }
  } else {
    make_folders(path);
  }
  check_writable(path);
  return path;
}

std::string set_earlier_run_aside(const std::string& path) {
  const std::set<std::string> written = {"config.textproto", "metrics.jsonl", "log.txt", "checkpoints", "trace"};
  std::vector<fs::path> earlier;
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    if (written.contains(name) || name.starts_with("events.out.tfevents.") || name.starts_with("watchdog-"))
      earlier.push_back(entry.path());
  }
  if (earlier.empty()) return {};
  std::string folder;
  for (int number = 1; folder.empty() || fs::exists(folder); ++number) folder = path + "/earlier-" + std::to_string(number);
  std::error_code error;
  fs::create_directory(folder, error);
  for (const fs::path& each : earlier) {
    if (!error) fs::rename(each, fs::path(folder) / each.filename(), error);
  }
  check(!error, "cannot move the earlier run in ", path, " to ", folder, ": ", error.message());
  return folder;
}

}  // namespace yard
