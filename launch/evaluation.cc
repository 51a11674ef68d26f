#include "launch/evaluation.h"

#include <cmath>
#include <numbers>

#include "core/ops/elementwise.h"

namespace yard {
namespace {

YARD_PHASE kValidationPhase{"validation"};
YARD_COLLECTIVE kValidation{"validation"};

}  // namespace

double Evaluation::loss() const noexcept { return targets == 0 ? 0 : nats / static_cast<double>(targets); }
double Evaluation::perplexity() const noexcept { return std::exp(loss()); }
std::optional<double> Evaluation::bits_per_byte() const noexcept {
  if (bytes == 0 || unknown > 0) return std::nullopt;
  return nats / (std::numbers::ln2 * static_cast<double>(bytes));
}

Evaluation evaluate(Stream& stream, Profiler& profiler, Mesh& mesh, Model& model, const Validation& data, const Tokenizer* tokenizer) {
  const Span span(profiler, kValidationPhase);
  Profiler inside;  // its phases are not those of a training step
  const Tensor all_nats = Tensor::zeros(stream, {1}, DType::f64);
  double targets = 0;
  double bytes = 0;
  double unknown = 0;
  for (Index pass = 0; pass < data.passes(); ++pass) {
    const Tokens tokens = data.batch(stream, pass);
    Context context{stream, inside, tokens, Pass::evaluate};
    context.poll = [&mesh] { mesh.world().progress(); };
    Tape unused;
    const Tensor nats = model.transformer->nats(context, 0, unused);
    ops::add_sum(stream, nats, 1, all_nats);
    const Tensor wanted = tokens.targets.to(stream, Device{});
    const Index known = tokenizer == nullptr ? 0 : tokenizer->vocabulary();
    for (const std::int32_t target : wanted.values<std::int32_t>()) {
      targets += target < 0 ? 0 : 1;
      unknown += target < known ? 0 : 1;
    }
    if (tokenizer != nullptr && unknown == 0)
      bytes += static_cast<double>(target_bytes(*tokenizer, tokens.ids.to(stream, Device{}), wanted));
  }
  const double nats = all_nats.to(stream, Device{}).values<double>()[0];
  Stream host{Device{}};
  const Tensor sums = Tensor::of<double>(host, {4}, std::vector<double>{nats, targets, bytes, unknown});
  mesh.control().all_reduce(host, {kValidation}, sums, Reduce::sum, When::now).wait(host);
  const auto totals = sums.values<double>();
  return {totals[0], static_cast<Index>(totals[1]), static_cast<Index>(totals[2]), static_cast<Index>(totals[3])};
}

}  // namespace yard
