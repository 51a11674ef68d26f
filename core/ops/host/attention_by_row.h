#pragma once

#include "core/ops/attention.h"

namespace yard::ops::host {

/// attention_cached for one fresh row of every sequence: keys and values are read once, as they lie in the cache.
void attention_by_row(Stream&, const Tensor& qkv, const Tensor& keys, const Tensor& values, const Tensor& before, const AttentionSettings&,
                      const Tensor& out);

}  // namespace yard::ops::host
