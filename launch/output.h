#pragma once

#include <array>
#include <streambuf>

namespace yard {

/// std::cout while this lives: written to stdout in blocks, every write checked. After a write that failed (a full device, or a stdout that
/// is closed) the rest is dropped, and finish() reports it: a command completes what it does beside its output, and no rank is left alone
/// in a collective. A closed pipe ends the process by SIGPIPE.
class Output : private std::streambuf {
 public:
  Output();
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  ~Output() override;
  /// Writes what is left. Throws Error "cannot write to stdout: No space left on device" if a write failed.
  void finish();

 private:
  int_type overflow(int_type next) override;
  int sync() override;
  void put();
  int error_ = 0;  // errno of the first write that failed
  std::streambuf* before_;
  std::array<char, 8192> buffer_{};
};

/// Opens stdin, stdout and stderr where they are closed, so that no file gets their numbers; what is written to such a stdout fails.
void open_standard_descriptors();

}  // namespace yard
