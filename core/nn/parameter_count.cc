#include "core/nn/parameter_count.h"

namespace yard {

namespace {
/// Of one feed-forward: down, up and, when gated, gate.
Index feed_forward(const ModelShape& shape, Index inner) { return (shape.gated ? 3 : 2) * shape.width * inner; }
}  // namespace

ParameterCount count_parameters(const ModelShape& shape) {
  const Index norms_of_branch = (shape.post_norms ? 2 : 1) * shape.width;
  ParameterCount count;
  count.embedding = (shape.tied_output ? 1 : 2) * shape.vocabulary * shape.width;
  count.attention = shape.layers * 2 * shape.width * shape.head_width * (shape.heads + shape.kv_heads);
  count.norms = shape.layers * 2 * norms_of_branch + shape.width;
  for (Index layer = 0; layer < shape.layers; ++layer) {
    if (!shape.is_moe(layer)) {
      count.dense += feed_forward(shape, shape.dense_width());
      continue;
    }
    count.routers += shape.experts * shape.width;
    count.experts += shape.experts * feed_forward(shape, shape.hidden);
    count.idle += (shape.experts - shape.top_k) * feed_forward(shape, shape.hidden);
    if (shape.shared_hidden > 0) count.shared += feed_forward(shape, shape.shared_hidden) + (shape.shared_gate ? shape.width : 0);
    if (shape.dense_after > 0) {
      count.dense += feed_forward(shape, shape.dense_after);
      count.norms += norms_of_branch;
    }
  }
  return count;
}

}  // namespace yard
