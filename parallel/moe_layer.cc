#include "parallel/moe_layer.h"

#include <utility>

#include "core/ops/elementwise.h"

namespace yard {

Tensor MoeLayer::forward(Context& context, const Tensor& x, Tape& tape) {
  constexpr auto kDirection = Exchange::Direction::forward;
  Routing routing = parts_.router->forward(context, x, tape);
  if (context.pass == Pass::train && context.log != nullptr) context.log->record(context, parts_.moe_layer, routing);
  std::shared_ptr<ExchangePlan> plan = plan_of(context, routing, x.rows(), tape);
  const Tensor keys = parts_.keyed && context.training() ? row_keys(context) : Tensor();
  const auto dispatch = [&](Index chunk) { return parts_.exchange->dispatch(context, kDirection, *plan, chunk, x, routing.weight, keys); };

  Dispatched next = dispatch(0);
  const Tensor y = local_output(context, x, routing, tape);  // overlaps with the first dispatch
  std::vector<Work> returning;
  for (Index chunk = 0; chunk < plan->chunks(); ++chunk) {
    Dispatched now = std::exchange(next, {});
    if (chunk + 1 < plan->chunks()) next = dispatch(chunk + 1);
    now.work.wait(context.stream);
    const Tensor rows =
        parts_.experts->forward(context, {now.rows, now.weight, now.key, plan->first_expert(chunk), plan->rows_per_expert(chunk)}, tape);
    returning.push_back(parts_.exchange->return_rows(context, kDirection, *plan, chunk, rows, {}));
  }
  Work::all(std::move(returning)).wait(context.stream);
  parts_.exchange->combine(context, *plan, y, {});

  routing.margin = routing.local_weight = {};
  if (context.training()) tape.push(Saved{std::move(routing), std::move(plan)});
  return y;
}

/// A recomputed pass makes the choices of the first pass again and reuses its plan, which saves the exchange of counts and its host wait.
std::shared_ptr<ExchangePlan> MoeLayer::plan_of(Context& context, const Routing& routing, Index tokens, Tape& tape) {
  if (auto kept = tape.reuse<std::shared_ptr<ExchangePlan>>()) return std::move(*kept);
  std::shared_ptr<ExchangePlan> plan = parts_.exchange->plan(context, routing, tokens);
  tape.keep(plan);
  return plan;
}

/// Mirror image of forward, on the same plan: dy is dispatched; dx and d(weight) are returned and combined.
Tensor MoeLayer::backward(Context& context, const Tensor& dy, Tape& tape) {
  constexpr auto kDirection = Exchange::Direction::backward;
  const auto saved = tape.pop<Saved>();
  const auto dispatch = [&](Index chunk) { return parts_.exchange->dispatch(context, kDirection, *saved.plan, chunk, dy, {}, {}); };

  Index chunk = saved.plan->chunks() - 1;
  Dispatched next = dispatch(chunk);
  const Tensor dweight = Tensor::zeros(context.stream, saved.routing.weight.shape());
  const Tensor dx = Tensor::zeros(context.stream, dy.shape());
  std::vector<Work> returning;
  for (; chunk >= 0; --chunk) {
    Dispatched now = std::exchange(next, {});
    if (chunk > 0) next = dispatch(chunk - 1);
    now.work.wait(context.stream);
    const ExpertsGradient gradient = parts_.experts->backward(context, now.rows, tape);
    returning.push_back(parts_.exchange->return_rows(context, kDirection, *saved.plan, chunk, gradient.rows, gradient.weight));
  }
  const Tensor dshared = parts_.shared ? parts_.shared->backward(context, dy, tape) : Tensor();
  Work::all(std::move(returning)).wait(context.stream);
  parts_.exchange->combine(context, *saved.plan, dx, dweight);

  if (dshared.defined()) ops::accumulate(context.stream, dshared, dx);
  ops::accumulate(context.stream, parts_.router->backward(context, dweight, dy, tape), dx);
  return dx;
}

/// The output that needs no dispatch: shared experts, and experts that the router computes locally.              (N, C) f32
Tensor MoeLayer::local_output(Context& context, const Tensor& x, const Routing& routing, Tape& tape) {
  Tensor y = parts_.shared ? ops::cast(context.stream, parts_.shared->forward(context, x, tape), DType::f32)
                           : Tensor::zeros(context.stream, x.shape());
  const Tensor own = parts_.router->local(context, x, routing);
  if (own.defined()) ops::accumulate(context.stream, own, y);
  return y;
}

void MoeLayer::visit(const std::function<void(Parameter&)>& see) {
  parts_.router->visit(see);
  parts_.experts->visit(see);
  if (parts_.shared) parts_.shared->visit(see);
}

void MoeLayer::visit_state(const std::function<void(State&)>& see) {
  parts_.router->visit_state(see);
  parts_.experts->visit_state(see);
  if (parts_.shared) parts_.shared->visit_state(see);
}

void MoeLayer::after_step(Context& context, bool skipped) {
  parts_.router->after_step(context, skipped);
  parts_.experts->after_step(context, skipped);
  if (parts_.shared) parts_.shared->after_step(context, skipped);
}

void MoeLayer::visit_costs(const CostVisitor& visitor) const {
  const RouterCost router = parts_.router->cost();
  const double slots = router.slots_per_token;
  Cost cost;
  cost.part = ModelPart::router;
  cost.parameters = router.parameters;
  cost.active = static_cast<double>(router.parameters);
  cost.matmuls = router.matmuls;
  cost.state_bytes = router.state_bytes;
  cost.kept.fixed = 4 * (4 * slots + 1);  // the exchange plan: four indices per slot, and one offset per token
  cost.saved.fixed = cost.kept.fixed + router.saved_bytes_per_token + 4 * slots;  // the token of each slot
  visitor(cost);
  const double row_bytes = sizeof(float) + (parts_.keyed ? sizeof(std::int64_t) : 0);
  parts_.experts->visit_costs({ModelPart::experts, parts_.expert_count, slots, row_bytes}, visitor);
  if (parts_.shared) parts_.shared->visit_costs(visitor);
}

}  // namespace yard
