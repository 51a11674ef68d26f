#pragma once

#include <chrono>
#include <string>

namespace yard {

/// One line on stderr that keeps itself current while a command works; nothing where stderr is no terminal.
class StatusLine {
 public:
  StatusLine();
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;
  ~StatusLine();
  /// Shows the text in place of the last one, at most ten times a second.
  void show(const std::string& text);

 private:
  bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point next_{};
};

}  // namespace yard
