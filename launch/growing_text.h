#pragma once

#include <cstdint>
#include <ostream>
#include <span>
#include <string>

#include "core/data/tokenizer.h"

namespace yard {

/// Prints a text while it grows, so that an error later on loses nothing. The bytes of a character are held back until all are there.
class GrowingText {
 public:
  /// `skipped` ids at the start are not part of the text: the start token.
  GrowingText(const Tokenizer& tokenizer, std::size_t skipped, std::ostream& out)
      : tokenizer_(tokenizer), out_(out), printed_(skipped), before_(tokenizer.end_of_text()) {}

  /// Prints what the ids have beyond those of the call before; ids that the tokenizer does not have stand for no text.
  void show(std::span<const std::int32_t> ids);
  /// Prints what is held back, and ends the line.
  void finish();

 private:
  const Tokenizer& tokenizer_;
  std::ostream& out_;
  std::size_t printed_;  // ids
  std::int32_t before_;  // the id before the next one
  std::string pending_;
};

}  // namespace yard
