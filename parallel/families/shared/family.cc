#include "parallel/families/shared/family.h"

#include <algorithm>
#include <cmath>

namespace yard {

const Family* find_family(const std::vector<Family>& table, std::string_view model_type) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const Family& family) { return family.model_type == model_type; });
  return found == table.end() ? nullptr : &*found;
}

bool is_plain(const RunConfig::Model& model, RunConfig::QkNorm::Value qk_norm) {
  const double usual = 1 / std::sqrt(static_cast<double>(model.head_width()));
  return model.gated() && model.activation() == RunConfig::Activation::silu && model.attention_cap() == 0 && !model.post_norms() &&
         std::abs(model.attention_scale() - usual) <= 1e-12 && model.embedding_scale() == 1 && model.output_scale() == 1 &&
         model.qk_norm() == qk_norm;
}

bool is_plain_mixture(const RunConfig::Model& model) {
  const auto& router = model.router();
  return model.experts() > 1 && model.moe_every() == 1 && model.first_dense_layers() == 0 && model.shared_hidden() == 0 &&
         model.dense_after() == 0 && router.kind() == "softmax_top_k" && router.scale() == 1 && !(router.evaluation_capacity() > 0);
}

}  // namespace yard
