#pragma once

#include <string>

namespace yard {

/// Whether this processor multiplies bf16 matrices in hardware (AVX512-BF16 or AMX-BF16): what run.precision=auto goes by.
bool has_fast_bf16();
/// Whether it does so with tiles (AMX-BF16), and the operating system lets programs use them.
bool has_amx_bf16();
/// "AMD EPYC 9554 64-Core Processor", or "unknown processor" where it does not say.
std::string processor_name();

}  // namespace yard
