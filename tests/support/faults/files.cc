// Stands in for the calls of the C library that change files.
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/support/faults/plan.h"

namespace {

using yard::faults::path_of;
using yard::faults::Plan;

/// The function that this one stands in for.
template <class Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

/// A call that succeeds or fails as a whole. `failed` is what it returns then.
template <class Body, class Result>
Result whole(const char* call, const std::string& path, Result failed, const Body& body) {
  const Plan::Verdict verdict = Plan::of_process().meet(call, path);
  if (verdict.action == Plan::Action::fail || verdict.action == Plan::Action::fail_once) {
    errno = verdict.value;
    return failed;
  }
  const Result result = body();
  Plan::after(verdict);
  return result;
}

/// A call that may move a part of its bytes; body(bytes) moves so many.
template <class Body>
ssize_t moved(int descriptor, std::size_t bytes, const Body& body) {
  if (Plan::of_process().empty()) return body(bytes);
  const Plan::Verdict verdict = Plan::of_process().meet("write", path_of(descriptor));
  const bool halves =
      verdict.action == Plan::Action::shorten || verdict.action == Plan::Action::half || verdict.action == Plan::Action::kill_half;
  const bool fails = verdict.action == Plan::Action::fail || verdict.action == Plan::Action::fail_once;
  if (fails || (verdict.action == Plan::Action::shorten && bytes < 2)) {
    errno = verdict.value;
    return -1;
  }
  const ssize_t result = body(halves && bytes > 1 ? bytes / 2 : bytes);
  Plan::after(verdict);
  return result;
}

/// The first `bytes` of a list of pieces.
std::vector<iovec> first_of(const iovec* pieces, int count, std::size_t bytes) {
  std::vector<iovec> result;
  for (int i = 0; i < count && bytes > 0; ++i) {
    result.push_back({pieces[i].iov_base, std::min(pieces[i].iov_len, bytes)});
    bytes -= result.back().iov_len;
  }
  return result;
}

std::size_t bytes_of(const iovec* pieces, int count) {
  std::size_t bytes = 0;
  for (int i = 0; i < count; ++i) bytes += pieces[i].iov_len;
  return bytes;
}

bool for_writing(int flags) { return (flags & O_ACCMODE) != O_RDONLY; }

int open_as(const char* name, int folder, const char* path, int flags, mode_t mode) {
  using Openat = int(int, const char*, int, ...);
  const auto go = [&] { return real<Openat>(name)(folder, path, flags, mode); };
  return for_writing(flags) ? whole("open", path_of(folder, path), -1, go) : go();
}

mode_t mode_of(int flags, va_list arguments) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? static_cast<mode_t>(va_arg(arguments, int)) : 0;
}

FILE* stream_as(const char* name, const char* path, const char* mode) {
  const auto go = [&] { return real<FILE*(const char*, const char*)>(name)(path, mode); };
  const bool writes = std::string(mode).find_first_of("wa+") != std::string::npos;
  return writes ? whole("open", path, static_cast<FILE*>(nullptr), go) : go();
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_as("openat", AT_FDCWD, path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_as("openat64", AT_FDCWD, path, flags, mode);
}
int openat(int folder, const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_as("openat", folder, path, flags, mode);
}
int openat64(int folder, const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_as("openat64", folder, path, flags, mode);
}
FILE* fopen(const char* path, const char* mode) { return stream_as("fopen", path, mode); }
FILE* fopen64(const char* path, const char* mode) { return stream_as("fopen64", path, mode); }

ssize_t write(int file, const void* data, std::size_t bytes) {
  return moved(file, bytes, [&](std::size_t some) { return real<decltype(write)>("write")(file, data, some); });
}
ssize_t pwrite(int file, const void* data, std::size_t bytes, off_t at) {
  return moved(file, bytes, [&](std::size_t some) { return real<decltype(pwrite)>("pwrite")(file, data, some, at); });
}
ssize_t pwrite64(int file, const void* data, std::size_t bytes, off64_t at) {
  return moved(file, bytes, [&](std::size_t some) { return real<decltype(pwrite64)>("pwrite64")(file, data, some, at); });
}
ssize_t writev(int file, const iovec* pieces, int count) {
  return moved(file, bytes_of(pieces, count), [&](std::size_t some) {
    const auto list = first_of(pieces, count, some);
    return real<decltype(writev)>("writev")(file, list.data(), static_cast<int>(list.size()));
  });
}
ssize_t pwritev(int file, const iovec* pieces, int count, off_t at) {
  return moved(file, bytes_of(pieces, count), [&](std::size_t some) {
    const auto list = first_of(pieces, count, some);
    return real<decltype(pwritev)>("pwritev")(file, list.data(), static_cast<int>(list.size()), at);
  });
}
ssize_t sendfile(int out, int in, off_t* offset, std::size_t bytes) noexcept {
  return moved(out, bytes, [&](std::size_t some) { return real<decltype(sendfile)>("sendfile")(out, in, offset, some); });
}
ssize_t sendfile64(int out, int in, off64_t* offset, std::size_t bytes) noexcept {
  return moved(out, bytes, [&](std::size_t some) { return real<decltype(sendfile64)>("sendfile64")(out, in, offset, some); });
}
ssize_t copy_file_range(int in, off64_t* in_at, int out, off64_t* out_at, std::size_t bytes, unsigned flags) {
  return moved(out, bytes,
               [&](std::size_t some) { return real<decltype(copy_file_range)>("copy_file_range")(in, in_at, out, out_at, some, flags); });
}

int fsync(int file) {
  return whole("sync", path_of(file), -1, [&] { return real<decltype(fsync)>("fsync")(file); });
}
int fdatasync(int file) {
  return whole("sync", path_of(file), -1, [&] { return real<decltype(fdatasync)>("fdatasync")(file); });
}

int rename(const char* from, const char* to) noexcept {
  return whole("rename", from, -1, [&] { return real<decltype(rename)>("rename")(from, to); });
}
int renameat(int from_folder, const char* from, int to_folder, const char* to) noexcept {
  return whole("rename", path_of(from_folder, from), -1,
               [&] { return real<decltype(renameat)>("renameat")(from_folder, from, to_folder, to); });
}
int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  return whole("rename", path_of(from_folder, from), -1,
               [&] { return real<decltype(renameat2)>("renameat2")(from_folder, from, to_folder, to, flags); });
}
int mkdir(const char* path, mode_t mode) noexcept {
  return whole("make", path, -1, [&] { return real<decltype(mkdir)>("mkdir")(path, mode); });
}
int mkdirat(int folder, const char* path, mode_t mode) noexcept {
  return whole("make", path_of(folder, path), -1, [&] { return real<decltype(mkdirat)>("mkdirat")(folder, path, mode); });
}
int unlink(const char* path) noexcept {
  return whole("remove", path, -1, [&] { return real<decltype(unlink)>("unlink")(path); });
}
int unlinkat(int folder, const char* path, int flags) noexcept {
  return whole("remove", path_of(folder, path), -1, [&] { return real<decltype(unlinkat)>("unlinkat")(folder, path, flags); });
}
int rmdir(const char* path) noexcept {
  return whole("remove", path, -1, [&] { return real<decltype(rmdir)>("rmdir")(path); });
}
int remove(const char* path) noexcept {
  return whole("remove", path, -1, [&] { return real<decltype(remove)>("remove")(path); });
}

}  // extern "C"
