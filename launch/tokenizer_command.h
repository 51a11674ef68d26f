#pragma once

namespace yard {

/// switchyard tokenizer --text FILE... --vocabulary N --out FILE: trains a lossless SentencePiece model with the program spm_train.
/// argv[0] is the command's name.
int tokenizer_command(int argc, const char* const* argv);

}  // namespace yard
