#include "launch/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace yard {

void AppendFile::Descriptor::destroy(int descriptor) noexcept { ::close(descriptor); }

AppendFile::AppendFile(std::string path)
    : path_(std::move(path)), file_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (!file_) fail("cannot write ", path_, ": ", std::strerror(errno));
}

void AppendFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(file_.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    check(count > 0, "cannot write ", path_, ": ", std::strerror(errno));
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
}

}  // namespace yard
