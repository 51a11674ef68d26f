#pragma once

namespace yard {

/// switchyard baselines --train FILES --validation FILES --tokenizer NAME: what unigram and bigram statistics of the training tokens make
/// of the validation tokens, in the bits per byte of `eval`. argv[0] is the command's name.
int baselines_command(int argc, const char* const* argv);

}  // namespace yard
