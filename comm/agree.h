#pragma once

#include <functional>
#include <string>

#include "comm/communicator.h"

namespace yard {

/// An error that all ranks throw at the same point: all ranks return, and one rank prints it.
class AgreedError : public Error {
 public:
  AgreedError(const std::string& sentence, int exit_code, bool reports) : Error(sentence), exit_code_(exit_code), reports_(reports) {}
  /// 2 for an error in the input, 1 for a failure; equal on all ranks.
  int exit_code() const noexcept { return exit_code_; }
  /// Whether this rank prints the message: true on the lowest rank that failed.
  bool reports() const noexcept { return reports_; }

 private:
  int exit_code_;
  bool reports_;
};

/// The sentence of an error. Those of std::filesystem become "cannot access PATH: Permission denied".
std::string sentence_of(const std::exception& error);

/// The program's exit code after an error: 2 for an InputError and for paths that cannot be followed, an AgreedError's own, 1 for any
/// other.
int exit_code_of(const std::exception& error);

/// Runs `body`, which must not use a communicator, on every rank. If it throws on any rank, all ranks throw AgreedError with the message of
/// the lowest rank that failed. Collective, over the control communicator.
void agree(Communicator& control, const std::function<void()>& body);

}  // namespace yard
