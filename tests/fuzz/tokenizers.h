#pragma once

#include <string_view>

#include "core/data/tokenizer.h"

namespace yard::fuzz {

/// Ends the program where a tokenizer breaks what core/data/tokenizer.h promises, on texts of many kinds and on `text`, or where its files
/// for transformers are not JSON.
void expect_sound(const Tokenizer&, std::string_view text);

}  // namespace yard::fuzz
