#include "parallel/exchange/direct.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include "core/ops/permute.h"
#include "core/ops/routing.h"

namespace yard {

/// Three orders meet here. Slots stand in the order of tokens; leaving rows are sorted by expert, and therefore by owner; arriving rows
/// come source after source, each sorted by expert, and are regrouped to stand expert after expert, each in source order.
struct DirectExchange::Plan final : ExchangePlan {
  ops::Grouped by_expert;  // slots of each expert; unused ones come last
  ops::Grouped by_token;   // slots of each token
  Tensor sorted_token;     // (S) i32: the token of each slot in the order of by_expert
  Tensor counted_rows;     // (experts + 1) i32 on the host, by_expert's offsets once `counted` has come
  Event counted;

  // What follows from the counts.
  bool settled = false;
  std::vector<Index> send, receive;  // rows to and from each rank of the group
  std::vector<Index> arrived;        // rows for each local expert
  Index leaving = 0, arriving = 0;
  Tensor slot;              // (leaving) i32: the slot of each leaving row
  Tensor position;          // (S) i32: the leaving row of each slot, -1 for unused ones
  Tensor regroup, ungroup;  // (arriving) i32: arriving row of each grouped row, and back; empty when the orders agree

  Index pieces() const override { return 1; }
  std::span<const Index> rows_per_expert(Index) const override { return arrived; }
  Index first_expert(Index) const override { return 0; }
};

DirectExchange::DirectExchange(Communicator& group, Index experts, int layer)
    : group_(group), experts_(experts), local_(experts / group.size()), layer_(layer) {
  check_input(experts % group.size() == 0, "model.experts (", experts, ") must be a multiple of mesh.expert (", group.size(), ")");
}

namespace {

/// Where the rows of each (expert, source) pair stand among the arriving ones.
Tensor regrouping(Stream& stream, std::span<const std::int64_t> counts, Index sources, Index local, Index rows) {
  std::vector<Index> first(static_cast<std::size_t>(sources * local) + 1, 0);
  std::partial_sum(counts.begin(), counts.end(), first.begin() + 1);
  std::vector<std::int32_t> order;
  order.reserve(static_cast<std::size_t>(rows));
  for (Index expert = 0; expert < local; ++expert) {
    for (Index source = 0; source < sources; ++source) {
      const auto block = static_cast<std::size_t>(source * local + expert);
      for (Index row = first[block]; row < first[block + 1]; ++row) order.push_back(static_cast<std::int32_t>(row));
    }
  }
  return Tensor::of<std::int32_t>(stream, {rows}, order);
}

}  // namespace

std::unique_ptr<ExchangePlan> DirectExchange::plan(Context& context, const Routing& routing, Index tokens) {
  const Span span(context.profiler, "exchange.plan");
  Stream& stream = context.stream;
  auto plan = std::make_unique<Plan>();
  plan->by_expert = ops::group_by(stream, routing.expert, experts_);
  plan->counted_rows = Tensor::on_host(stream, {experts_ + 1}, DType::i32);
  stream.copy(plan->counted_rows.raw(), plan->by_expert.offsets.raw(), plan->counted_rows.bytes());
  plan->counted = stream.record();
  plan->sorted_token = ops::gather_rows(stream, routing.token, plan->by_expert.order);
  plan->by_token = ops::group_by(stream, routing.token, tokens);
  return plan;
}

/// Waits for the counts, exchanges them, and derives from them who gets what.
void DirectExchange::settle(Context& context, Plan& plan) {
  if (plan.settled) return;
  const Span span(context.profiler, "exchange.plan");
  Stream& stream = context.stream;
  plan.counted.wait();
  const auto* offset = plan.counted_rows.data<std::int32_t>();
  plan.leaving = offset[experts_];

  const Index ranks = group_.size();
  std::vector<std::int64_t> leaving_counts(static_cast<std::size_t>(experts_));
  for (Index expert = 0; expert < experts_; ++expert)
    leaving_counts[static_cast<std::size_t>(expert)] = offset[expert + 1] - offset[expert];
  std::vector<std::int64_t> arriving_counts = leaving_counts;
  if (ranks > 1) {
    const Tensor out = Tensor::of<std::int64_t>(stream, {ranks, local_}, leaving_counts);
    const Tensor in(stream, {ranks, local_}, DType::i64);
    const std::vector<Index> one(static_cast<std::size_t>(ranks), 1);
    group_.all_to_all(stream, context.profiler, {"counts", layer_}, out, one, in, one, When::now).wait(stream);
    const Tensor on_host = in.to(stream, Device{});
    std::ranges::copy(on_host.values<std::int64_t>(), arriving_counts.begin());
  }
  plan.arrived.assign(static_cast<std::size_t>(local_), 0);
  for (Index rank = 0; rank < ranks; ++rank) {
    Index out = 0;
    Index in = 0;
    for (Index expert = 0; expert < local_; ++expert) {
      const auto at = static_cast<std::size_t>(rank * local_ + expert);
      out += leaving_counts[at];
      in += arriving_counts[at];
      plan.arrived[static_cast<std::size_t>(expert)] += arriving_counts[at];
    }
    plan.send.push_back(out);
    plan.receive.push_back(in);
    plan.arriving += in;
  }

  plan.slot = plan.by_expert.order.row_range(0, plan.leaving);
  plan.position = Tensor(stream, plan.by_expert.order.shape(), DType::i32);
  ops::invert(stream, plan.slot, plan.position);
  if (ranks > 1 && local_ > 1) {
    plan.regroup = regrouping(stream, arriving_counts, ranks, local_, plan.arriving);
    plan.ungroup = Tensor(stream, {plan.arriving}, DType::i32);
    ops::invert(stream, plan.regroup, plan.ungroup);
  }
  plan.settled = true;
}

Arriving DirectExchange::send(Context& context, std::string_view phase, ExchangePlan& any_plan, Index /*piece*/, const Tensor& x,
                              const Tensor& weight, const Tensor& key) {
  Stream& stream = context.stream;
  auto& plan = dynamic_cast<Plan&>(any_plan);
  // Of all slots, since how many leave is not known on the host before the plan is settled; the rows of unused ones stay behind.
  const auto [rows, weights, keys] = [&] {
    const Span span(context.profiler, "exchange.gather");
    return std::array{ops::gather_rows(stream, x, plan.sorted_token),
                      weight.defined() ? ops::gather_rows(stream, weight, plan.by_expert.order) : Tensor(),
                      key.defined() ? ops::gather_rows(stream, key, plan.sorted_token) : Tensor()};
  }();
  settle(context, plan);

  const Span span(context.profiler, "exchange.gather");
  Arriving arriving;
  const auto ship = [&](const Tensor& gathered, Tensor& arrived) {
    if (!gathered.defined()) return;
    const Tensor leaving = gathered.row_range(0, plan.leaving);
    if (group_.size() == 1) {
      arrived = leaving;
      return;
    }
    std::array<Index, 2> extents = {plan.arriving, leaving.cols()};
    const Tensor landed(stream, Shape(std::span<const Index>(extents.data(), static_cast<std::size_t>(leaving.shape().rank()))),
                        leaving.dtype());
    Work moved = group_.all_to_all(stream, context.profiler, {phase, layer_}, leaving, plan.send, landed, plan.receive);
    if (!plan.regroup.defined()) {
      arrived = landed;
      arriving.work =
          Work::then(stream, std::move(arriving.work), [moved = std::make_shared<Work>(std::move(moved))](Stream& on) { moved->wait(on); });
      return;
    }
    arrived = Tensor(stream, landed.shape(), landed.dtype());
    arriving.work = Work::then(stream, std::move(arriving.work),
                               [moved = std::make_shared<Work>(std::move(moved)), landed, arrived, order = plan.regroup](Stream& on) {
                                 moved->wait(on);
                                 ops::gather_rows(on, landed, order, arrived);
                               });
  };
  ship(rows, arriving.rows);
  ship(weights, arriving.weight);
  ship(keys, arriving.key);
  return arriving;
}

Work DirectExchange::home(Context& context, std::string_view phase, const ExchangePlan& any_plan, Index /*piece*/, const Tensor& rows,
                          const Tensor& scalar, const Tensor& y, const Tensor& slot) {
  const Span span(context.profiler, "exchange.scatter");
  Stream& stream = context.stream;
  const auto& plan = dynamic_cast<const Plan&>(any_plan);
  const auto finish = [y, slot, position = plan.position, slots = plan.slot, by_token = plan.by_token, &profiler = context.profiler](
                          Stream& on, const Tensor& returned, const Tensor& scalars) {
    const Span combining(profiler, "exchange.combine");
    ops::combine_rows(on, returned, position, by_token, y);
    if (scalars.defined()) ops::scatter_values(on, scalars, slots, slot);
  };
  if (group_.size() == 1) {
    return Work::then(stream, {}, [finish, rows, scalar](Stream& on) { finish(on, rows, scalar); });
  }
  const auto ship = [&](const Tensor& grouped, Tensor& returned) {
    const Tensor leaving = plan.ungroup.defined() ? ops::gather_rows(stream, grouped, plan.ungroup) : grouped;
    std::array<Index, 2> extents = {plan.leaving, leaving.cols()};
    returned =
        Tensor(stream, Shape(std::span<const Index>(extents.data(), static_cast<std::size_t>(leaving.shape().rank()))), leaving.dtype());
    return std::make_shared<Work>(group_.all_to_all(stream, context.profiler, {phase, layer_}, leaving, plan.receive, returned, plan.send));
  };
  Tensor returned;
  Tensor scalars;
  auto moved = ship(rows, returned);
  auto moved_scalars = scalar.defined() ? ship(scalar, scalars) : nullptr;
  return Work::then(stream, {}, [finish, moved, moved_scalars, returned, scalars](Stream& on) {
    moved->wait(on);
    if (moved_scalars) moved_scalars->wait(on);
    finish(on, returned, scalars);
  });
}

}  // namespace yard
