#pragma once

namespace yard {

/// switchyard tokenize --text FILE... --tokenizer (bytes or FILE) --out PREFIX: text to Megatron's PREFIX.bin and PREFIX.idx.
/// argv[0] is the command's name.
int tokenize_command(int argc, const char* const* argv);

}  // namespace yard
