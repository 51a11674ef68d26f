#pragma once

#include <string>

#include "core/io/file.h"

namespace yard {

/// Reserves a run directory for one job. RUN/lock is locked as long as this lives or until the process dies, however it dies; RUN/lock.json
/// names the process, its host, its job and when it started. The lock is one of fcntl: a forked process does not inherit it.
class RunLock {
 public:
  /// Throws InputError that names the holder when another process has the lock, and Error when the files cannot be written.
  explicit RunLock(const std::string& run_directory);
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;
  ~RunLock();

  /// A sentence where the file system has no locks, so that nothing is reserved; else empty.
  const std::string& warning() const noexcept { return warning_; }

 private:
  std::string holder_file_;
  std::string warning_;
  FileDescriptor file_;
};

}  // namespace yard
