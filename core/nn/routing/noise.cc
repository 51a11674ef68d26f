#include "core/nn/routing/noise.h"

#include "core/nn/experts.h"
#include "core/ops/routing.h"
#include "core/random.h"

namespace yard {

std::uint64_t noise_key(const Context& context, const RouterPlace& place, std::string_view what) {
  return key_of(context.seed, key_of(what), context.step, place.layer);
}

Tensor Jitter::apply(Context& context, const Tensor& x) const {
  if (epsilon_ == 0 || !context.training()) return x;
  return ops::jitter(context.stream, x, epsilon_, noise_key(context, layer_, "jitter"), row_keys(context));
}

}  // namespace yard
