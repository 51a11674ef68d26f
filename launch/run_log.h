#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "launch/append_file.h"

namespace yard {

/// What a run tells people: lines on the screen and in log.txt, and, where the screen is a terminal, one status line below them that
/// replaces itself. Rank 0 has one; the others have a silent one, so that nothing is said once a rank.
class RunLog {
 public:
  /// Silent.
  RunLog() = default;
  /// Speaks to `screen`, a file descriptor (1 is stdout).
  explicit RunLog(int screen);
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;
  ~RunLog();

  /// From now on lines go to `run_directory`/log.txt too; what was said before follows at once. Throws Error when it cannot be written.
  void open(const std::string& run_directory);
  /// A line, or several, without the last end of line, on the screen and in the file.
  void line(std::string_view text);
  /// Only in the file.
  void file_line(std::string_view text);
  /// Replaces the status line, cut to the width of the terminal. Nothing happens where the screen is no terminal.
  void status(std::string_view text);
  /// Leaves the status line as it stands and goes below it.
  void end_status();

  /// Throws Error if something could not be written to the screen.
  void check_screen() const;

  bool silent() const noexcept { return screen_ < 0; }
  bool terminal() const noexcept { return terminal_; }
  /// Width of the terminal now, in characters.
  int columns() const;

 private:
  void show(std::string_view bytes);
  int screen_ = -1;
  int screen_error_ = 0;  // errno of the last write that failed
  bool terminal_ = false;
  std::string status_;  // what stands in the status line now
  std::string early_;   // lines said before there was a file
  std::unique_ptr<AppendFile> file_;
};

}  // namespace yard
