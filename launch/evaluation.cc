#include "launch/evaluation.h"

#include <cmath>
#include <numbers>

#include "core/ops/elementwise.h"

namespace yard {

double Evaluation::loss() const noexcept { return targets == 0 ? 0 : nats / static_cast<double>(targets); }
double Evaluation::perplexity() const noexcept { return std::exp(loss()); }
double Evaluation::bits_per_byte() const noexcept { return bytes == 0 ? 0 : nats / (std::numbers::ln2 * static_cast<double>(bytes)); }

Evaluation evaluate(Stream& stream, Profiler& profiler, Mesh& mesh, Model& model, const Validation& data, const Tokenizer& tokenizer) {
  const Span span(profiler, "validation");
  const Tensor sums = Tensor::zeros(stream, {3}, DType::f64);
  auto totals = sums.values<double>();
  for (Index pass = 0; pass < data.passes(); ++pass) {
    const Tokens tokens = data.batch(stream, pass);
    Context context{stream, profiler, tokens, Pass::evaluate};
    context.poll = [&mesh] { mesh.world().progress(); };
    Tape unused;
    const Tensor nats = model.transformer->nats(context, 0, unused);
    totals[0] += ops::sum(stream, nats).values<double>()[0];
    for (const std::int32_t target : tokens.targets.values<std::int32_t>()) totals[1] += target < 0 ? 0 : 1;
    totals[2] += static_cast<double>(target_bytes(tokenizer, tokens.ids, tokens.targets));
  }
  mesh.world().all_reduce(stream, profiler, {"validation"}, sums, Reduce::sum, When::now).wait(stream);
  return {totals[0], static_cast<Index>(totals[1]), static_cast<Index>(totals[2])};
}

}  // namespace yard
