#pragma once

#include <string>
#include <string_view>

#include "core/handle.h"

namespace yard {

/// A file that grows by whole pieces: each `write` has reached the system when it returns, so that a crash loses nothing written before.
/// Throws Error "cannot write PATH: No space left on device" and the like. Opening keeps what is there.
class AppendFile {
 public:
  explicit AppendFile(std::string path);
  const std::string& path() const noexcept { return path_; }
  void write(std::string_view bytes);

 private:
  struct Descriptor {
    using Type = int;
    static int null() { return -1; }
    static void destroy(int descriptor) noexcept;
  };
  std::string path_;
  Handle<Descriptor> file_;
};

}  // namespace yard
