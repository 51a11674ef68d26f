#pragma once

#include <functional>

#include "comm/communicator.h"

namespace yard {

/// An error that all ranks know of and throw together: they leave by return, and one of them prints it.
class AgreedError : public Error {
 public:
  AgreedError(const std::string& sentence, int exit_code, bool speaks) : Error(sentence), exit_code_(exit_code), speaks_(speaks) {}
  /// 2 where what was given is wrong, 1 where what happened is: equal on all ranks.
  int exit_code() const noexcept { return exit_code_; }
  /// Whether this rank is the one that prints the sentence: the lowest that failed.
  bool speaks() const noexcept { return speaks_; }

 private:
  int exit_code_;
  bool speaks_;
};

/// The code that a program ends with: 2 for an InputError, an AgreedError's own, 1 for any other.
int exit_code_of(const std::exception& error);

/// Runs `body`, which must not use a communicator, on every rank. When it throws on any, all ranks throw AgreedError with the sentence of
/// the lowest rank that failed.
void agree(Communicator& communicator, Profiler& profiler, const std::function<void()>& body);

}  // namespace yard
