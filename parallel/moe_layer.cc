#include "parallel/moe_layer.h"

#include "core/ops/elementwise.h"

namespace yard {

Tensor MoeLayer::forward(Context& context, const Tensor& x, Tape& tape) {
  Routing routing = parts_.router->forward(context, x, tape, *parts_.report);
  std::shared_ptr<ExchangePlan> plan = parts_.exchange->plan(context, routing, x.rows());
  const Tensor keys = parts_.keyed && context.training() ? row_keys(context) : Tensor();
  const auto send = [&](Index piece) { return parts_.exchange->send(context, "dispatch", *plan, piece, x, routing.weight, keys); };

  Arriving arriving = send(0);
  const Tensor y = at_home(context, x, routing, tape);  // while the first rows travel
  std::vector<Work> returning;
  for (Index piece = 0; piece < plan->pieces(); ++piece) {
    Arriving now = std::move(arriving);
    if (piece + 1 < plan->pieces()) arriving = send(piece + 1);
    now.work.wait(context.stream);
    const Tensor done =
        parts_.experts->forward(context, {now.rows, now.weight, now.key, plan->first_expert(piece), plan->rows_per_expert(piece)}, tape);
    returning.push_back(parts_.exchange->home(context, "combine", *plan, piece, done, {}, y, {}));
  }
  for (Work& work : returning) work.wait(context.stream);

  if (context.training()) tape.push(Saved{routing.self.defined() ? x : Tensor(), std::move(routing), std::move(plan)});
  return y;
}

/// The same page upwards: dy goes out on the plan of forward, dx and d(weight) come home.
Tensor MoeLayer::backward(Context& context, const Tensor& dy, Tape& tape) {
  const auto saved = tape.pop<Saved>();
  const auto send = [&](Index piece) { return parts_.exchange->send(context, "dispatch.backward", *saved.plan, piece, dy, {}, {}); };
  const Tensor dweight = Tensor::zeros(context.stream, saved.routing.weight.shape());

  Index piece = saved.plan->pieces() - 1;
  Arriving arriving = send(piece);
  const Tensor dx = Tensor::zeros(context.stream, dy.shape());
  std::vector<Work> returning;
  for (; piece >= 0; --piece) {
    Arriving now = std::move(arriving);
    if (piece > 0) arriving = send(piece - 1);
    now.work.wait(context.stream);
    const ExpertsGradient gradient = parts_.experts->backward(context, now.rows, tape);
    returning.push_back(
        parts_.exchange->home(context, "combine.backward", *saved.plan, piece, gradient.rows, gradient.weight, dx, dweight));
  }
  Tensor dself;
  const Tensor dhome = back_home(context, dy, saved, dself, tape);
  for (Work& work : returning) work.wait(context.stream);

  if (dhome.defined()) ops::accumulate(context.stream, dhome, dx);
  ops::accumulate(context.stream, parts_.router->backward(context, dweight, dself, tape), dx);
  return dx;
}

/// What this rank adds without sending anything: shared experts, and tokens that the router passes on themselves.      (N, C) f32
Tensor MoeLayer::at_home(Context& context, const Tensor& x, const Routing& routing, Tape& tape) {
  Tensor y = parts_.shared ? ops::cast(context.stream, parts_.shared->forward(context, x, tape), DType::f32)
                           : Tensor::zeros(context.stream, x.shape());
  if (routing.self.defined()) ops::accumulate(context.stream, ops::scale_rows(context.stream, x, routing.self, DType::f32), y);
  return y;
}

Tensor MoeLayer::back_home(Context& context, const Tensor& dy, const Saved& saved, Tensor& dself, Tape& tape) {
  Tensor dx;
  if (saved.routing.self.defined()) {
    dself = ops::row_dot(context.stream, dy, saved.x);
    dx = ops::scale_rows(context.stream, dy, saved.routing.self, DType::f32);
  }
  if (!parts_.shared) return dx;
  const Tensor dshared = parts_.shared->backward(context, dy, tape);
  return dx.defined() ? ops::add(context.stream, dx, dshared, DType::f32) : dshared;
}

void MoeLayer::visit(const std::function<void(Parameter&)>& see) {
  parts_.router->visit(see);
  parts_.experts->visit(see);
  if (parts_.shared) parts_.shared->visit(see);
}

void MoeLayer::visit_state(const std::function<void(State&)>& see) { parts_.router->visit_state(see); }
void MoeLayer::after_step(Context& context, bool skipped) { parts_.router->after_step(context, skipped); }

}  // namespace yard
