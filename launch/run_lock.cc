#include "launch/run_lock.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "core/io/json.h"
#include "launch/environment.h"

namespace yard {
namespace {

using nlohmann::json;

std::string job_id() {
  for (const char* name : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"}) {
    const char* id = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets variables
    if (id != nullptr && *id != '\0') return id;
  }
  return {};
}

struct flock whole_file() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

/// "process 12 on host a (job 7) since 2026-03-01 12:34:56 +0100", or what is known of it.
std::string holder_of(int file, const std::string& holder_file) {
  try {
    const json holder = parse_json(read_text_file(holder_file));
    const auto job = holder.at("job").get<std::string>();
    return "process " + std::to_string(holder.at("process").get<std::int64_t>()) + " on host " + holder.at("host").get<std::string>() +
           (job.empty() ? "" : " (job " + job + ")") + " since " + holder.at("since").get<std::string>();
  } catch (const std::exception&) {  // the holder has not written it yet
    struct flock lock = whole_file();
    if (::fcntl(file, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK && lock.l_pid > 0) return "process " + std::to_string(lock.l_pid);
    return "another process";
  }
}

}  // namespace

RunLock::RunLock(const std::string& run_directory) : holder_file_(run_directory + "/lock.json") {
  const std::string path = run_directory + "/lock";
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666));
  if (!file) fail("cannot write ", path, ": ", std::strerror(errno));
  struct flock lock = whole_file();
  if (::fcntl(file.get(), F_SETLK, &lock) != 0) {
    if (errno == EACCES || errno == EAGAIN) {
      fail_input("", run_directory, " is in use by ", holder_of(file.get(), holder_file_), "; wait for it or choose another --run-dir");
    }
    warning_ = run_directory + " cannot be locked (" + std::strerror(errno) + "): make sure that no other job runs in it";
    return;
  }
  const json holder = {{"process", ::getpid()}, {"host", host_name()}, {"job", job_id()}, {"since", date_and_time()}};
  FileWriter writer(holder_file_ + ".tmp");
  writer.write(json_text(holder) + "\n");
  writer.finish();
  rename_file(holder_file_ + ".tmp", holder_file_);
  file_ = std::move(file);
}

RunLock::~RunLock() {
  if (file_) ::unlink(holder_file_.c_str());  // before the lock is released, which the next holder waits for
}

}  // namespace yard
