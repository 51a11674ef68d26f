#include "core/nn/flops.h"

namespace yard {

double training_flops_per_token(const ModelShape& model, Index length) {
  const auto width = static_cast<double>(model.width);
  const auto query = static_cast<double>(model.heads * model.head_width);
  const auto key = static_cast<double>(model.kv_heads * model.head_width);
  const double matrices = model.gated ? 3 : 2;
  const double projections = 2 * width * (2 * query + 2 * key);
  const double scores = 2 * static_cast<double>(length) * query;  // two products over on average half of the sequence
  double forward = 2 * width * static_cast<double>(model.vocabulary);
  for (Index layer = 0; layer < model.layers; ++layer) {
    forward += projections + scores;
    double hidden = static_cast<double>(model.dense_width());
    if (model.is_moe(layer)) hidden = static_cast<double>(model.top_k * model.hidden + model.shared_hidden + model.dense_after);
    forward += 2 * matrices * width * hidden;
  }
  return 3 * forward;
}

}  // namespace yard
