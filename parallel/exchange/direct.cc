#include <algorithm>
#include <array>
#include <numeric>
#include <utility>
#include <vector>

#include "core/ops/permute.h"
#include "core/ops/routing.h"
#include "parallel/exchange/exchange.h"

namespace yard {
namespace {

YARD_PHASE kPlan{"exchange.plan"};
YARD_PHASE kGather{"exchange.gather"};
YARD_PHASE kReturn{"exchange.return"};
YARD_PHASE kCombinePhase{"exchange.combine"};
YARD_COLLECTIVE kCounts{"counts"};
YARD_COLLECTIVE kDispatch{"dispatch"};
YARD_COLLECTIVE kCombine{"combine"};
YARD_COLLECTIVE kDispatchBackward{"dispatch.backward"};
YARD_COLLECTIVE kCombineBackward{"combine.backward"};
YARD_COLLECTIVE kEvaluationCounts{"evaluation.counts"};
YARD_COLLECTIVE kEvaluationDispatch{"evaluation.dispatch"};
YARD_COLLECTIVE kEvaluationCombine{"evaluation.combine"};

/// Validation between two training steps has kinds of its own, so that reports of steps do not mix them.
std::string_view counts_kind(const Context& context) { return context.training() ? kCounts : kEvaluationCounts; }
std::string_view dispatch_kind(const Context& context, Exchange::Direction direction) {
  if (direction == Exchange::Direction::backward) return kDispatchBackward;
  return context.training() ? kDispatch : kEvaluationDispatch;
}
std::string_view combine_kind(const Context& context, Exchange::Direction direction) {
  if (direction == Exchange::Direction::backward) return kCombineBackward;
  return context.training() ? kCombine : kEvaluationCombine;
}

/// One all-to-all per chunk among the ranks of an expert group: every row is sent directly to the owner of its expert. In a group of one
/// rank, rows are only sorted.
class DirectExchange final : public Exchange {
 public:
  /// Rank r of the group owns experts [r * local, (r + 1) * local), exchanged in `chunks` sets of consecutive experts.
  DirectExchange(Communicator& group, Index experts, Index chunks, int layer);
  std::unique_ptr<ExchangePlan> plan(Context&, const Routing&, Index tokens) override;
  Dispatched dispatch(Context&, Direction, ExchangePlan&, Index chunk, const Tensor& x, const Tensor& weight, const Tensor& key) override;
  Work return_rows(Context&, Direction, ExchangePlan&, Index chunk, const Tensor& rows, const Tensor& scalar) override;
  void combine(Context&, ExchangePlan&, const Tensor& y, const Tensor& slot_scalar) override;

 private:
  class Plan;
  void wait_for_counts(Context&, Plan&) const;
  Communicator& group_;
  Index experts_, local_, chunks_;
  int layer_;
};

/// An uninitialised tensor of `rows` rows, with the row width and dtype of `like`.
Tensor rows_like(Stream& stream, const Tensor& like, Index rows) {
  std::array<Index, 2> extents = {rows, like.shape().rank() > 1 ? like.cols() : 0};
  return {stream, Shape(std::span<const Index>(extents.data(), static_cast<std::size_t>(like.shape().rank()))), like.dtype()};
}

/// Slots are in token order. Leaving rows (sent by dispatch) are in the order of by_expert: sorted by expert and therefore by owner.
/// Arriving rows are grouped by local expert, and within an expert by source rank, which is global token order.
class DirectExchange::Plan final : public ExchangePlan {
 public:
  ops::Grouped by_expert;  // slots of each expert; unused ones come last
  ops::Grouped by_token;   // slots of each token
  Tensor sorted_token;     // (S) i32: the token of each slot in the order of by_expert
  Tensor position;         // (S) i32: the leaving row of each slot, -1 for unused slots; known once the counts are

  // Counts are differences of consecutive by_expert.offsets. Each rank sends every rank the offsets that delimit that rank's experts:
  Tensor arriving_offsets;  // (ranks * (local + 1)) i32
  Work offsets_exchanged;
  bool counted = false;
  std::vector<Index> leaving;         // (experts) rows that this rank sends to each expert
  std::vector<Index> arriving;        // (ranks x local) rows that arrive from each rank for each local expert
  std::vector<Index> rows_of_expert;  // (local) sums of `arriving` over ranks
  std::vector<Index> first_leaving;   // (experts + 1) the first leaving row of each expert
  std::vector<Index> chunk_first;     // (chunks + 1) the first local expert of each chunk

  // The direction in progress: rows that dispatch gathered, until all chunks are sent, and rows that return_rows receives, until combine.
  Tensor gathered_from, gathered_rows, gathered_weight, gathered_key;
  Index undispatched = 0;
  Tensor returned_rows, returned_scalar;

  Index chunks() const override { return static_cast<Index>(chunk_first.size()) - 1; }
  Index first_expert(Index chunk) const override { return chunk_first.at(static_cast<std::size_t>(chunk)); }
  Index end_expert(Index chunk) const { return chunk_first.at(static_cast<std::size_t>(chunk) + 1); }
  std::span<const Index> rows_per_expert(Index chunk) const override {
    return std::span(rows_of_expert)
        .subspan(static_cast<std::size_t>(first_expert(chunk)), static_cast<std::size_t>(end_expert(chunk) - first_expert(chunk)));
  }
  Index local() const { return chunk_first.back(); }
  Index ranks() const { return static_cast<Index>(leaving.size()) / local(); }
  Index leaving_rows() const { return first_leaving.back(); }
  Index arriving_rows(Index chunk) const {
    const auto rows = rows_per_expert(chunk);
    return std::accumulate(rows.begin(), rows.end(), Index{0});
  }
  /// One run per (rank, local expert of the chunk) among the leaving rows.
  std::vector<RowRun> leaving_runs(Index chunk) const {
    std::vector<RowRun> runs;
    for (Index rank = 0; rank < ranks(); ++rank) {
      for (Index expert = rank * local() + first_expert(chunk); expert < rank * local() + end_expert(chunk); ++expert) {
        const auto at = static_cast<std::size_t>(expert);
        runs.push_back({static_cast<int>(rank), first_leaving[at], leaving[at]});
      }
    }
    return runs;
  }
  /// One run per (rank, local expert of the chunk) among the chunk's arriving rows.
  std::vector<RowRun> arriving_runs(Index chunk) const {
    std::vector<Index> next;  // row of each expert of the chunk
    Index first = 0;
    for (const Index rows : rows_per_expert(chunk)) {
      next.push_back(first);
      first += rows;
    }
    std::vector<RowRun> runs;
    for (Index rank = 0; rank < ranks(); ++rank) {
      for (std::size_t i = 0; i < next.size(); ++i) {
        const Index rows = arriving[static_cast<std::size_t>(rank * local() + first_expert(chunk)) + i];
        runs.push_back({static_cast<int>(rank), next[i], rows});
        next[i] += rows;
      }
    }
    return runs;
  }
};

DirectExchange::DirectExchange(Communicator& group, Index experts, Index chunks, int layer)
    : group_(group), experts_(experts), local_(experts / group.size()), chunks_(chunks), layer_(layer) {
  check_input(experts % group.size() == 0, "model.experts (", experts, ") must be a multiple of mesh.expert (", group.size(), ")");
  check_input(chunks >= 1 && chunks <= local_, "exchange.chunks (", chunks, ") must be from 1 to the experts per rank, ", local_);
}

std::unique_ptr<ExchangePlan> DirectExchange::plan(Context& context, const Routing& routing, Index tokens) {
  const Span span(context.profiler, kPlan);
  Stream& stream = context.stream;
  auto plan = std::make_unique<Plan>();
  for (Index chunk = 0; chunk <= chunks_; ++chunk) plan->chunk_first.push_back(local_ * chunk / chunks_);
  plan->by_expert = ops::group_by(stream, routing.expert, experts_);
  if (group_.size() > 1) {
    std::vector<RowRun> send;
    std::vector<RowRun> receive;
    for (int rank = 0; rank < group_.size(); ++rank) {
      send.push_back({rank, rank * local_, local_ + 1});
      receive.push_back({rank, rank * (local_ + 1), local_ + 1});
    }
    plan->arriving_offsets = Tensor(stream, {group_.size() * (local_ + 1)}, DType::i32);
    const AllToAllPart offsets{plan->by_expert.offsets, plan->arriving_offsets};
    plan->offsets_exchanged = group_.all_to_all(stream, {counts_kind(context), layer_}, {&offsets, 1}, send, receive);
  }
  plan->sorted_token = ops::gather_rows(stream, routing.token, plan->by_expert.order);
  plan->by_token = ops::group_by(stream, routing.token, tokens);
  return plan;
}

std::vector<Index> differences(std::span<const std::int32_t> offsets) {
  std::vector<Index> result;
  for (std::size_t i = 1; i < offsets.size(); ++i) result.push_back(offsets[i] - offsets[i - 1]);
  return result;
}

/// Copies the counts to the host: the layer's one host wait.
void DirectExchange::wait_for_counts(Context& context, Plan& plan) const {
  if (plan.counted) return;
  const Span span(context.profiler, kPlan);
  Stream& stream = context.stream;
  plan.offsets_exchanged.wait(stream);
  const auto to_host = [&](const Tensor& values) {
    const Tensor copy = Tensor::on_host(stream, values.shape(), values.dtype());
    stream.copy(copy.raw(), values.raw(), values.bytes());
    return copy;
  };
  const Tensor own = to_host(plan.by_expert.offsets);
  const Tensor theirs = plan.arriving_offsets.defined() ? to_host(plan.arriving_offsets) : own;
  stream.record().wait();

  plan.leaving = differences(own.values<std::int32_t>());
  plan.first_leaving.assign(own.values<std::int32_t>().begin(), own.values<std::int32_t>().end());
  plan.rows_of_expert.assign(static_cast<std::size_t>(local_), 0);
  for (int rank = 0; rank < group_.size(); ++rank) {
    const auto counts = differences(theirs.row_range(rank * (local_ + 1), local_ + 1).values<std::int32_t>());
    for (std::size_t expert = 0; expert < counts.size(); ++expert) plan.rows_of_expert[expert] += counts[expert];
    plan.arriving.insert(plan.arriving.end(), counts.begin(), counts.end());
  }
  plan.position = Tensor(stream, plan.by_expert.order.shape(), DType::i32);
  ops::invert(stream, plan.by_expert.order.row_range(0, plan.leaving_rows()), plan.position);
  plan.counted = true;
}

Dispatched DirectExchange::dispatch(Context& context, Direction direction, ExchangePlan& any_plan, Index chunk, const Tensor& x,
                                    const Tensor& weight, const Tensor& key) {
  Stream& stream = context.stream;
  auto& plan = dynamic_cast<Plan&>(any_plan);
  if (plan.undispatched == 0) {  // a new direction: gathers every slot, since the host may not know the counts yet
    const Span span(context.profiler, kGather);
    plan.undispatched = plan.chunks();
    plan.gathered_from = x;
    plan.gathered_rows = ops::gather_rows(stream, x, plan.sorted_token);
    plan.gathered_weight = weight.defined() ? ops::gather_rows(stream, weight, plan.by_expert.order) : Tensor();
    plan.gathered_key = key.defined() ? ops::gather_rows(stream, key, plan.sorted_token) : Tensor();
  }
  check(plan.gathered_from.raw() == x.raw(), "all chunks of a direction are dispatched with the same rows");
  wait_for_counts(context, plan);

  const Span span(context.profiler, kGather);
  Dispatched result;
  if (group_.size() == 1) {
    const auto first = plan.first_leaving[static_cast<std::size_t>(plan.first_expert(chunk))];
    const auto own = [&](const Tensor& gathered) {
      return gathered.defined() ? gathered.row_range(first, plan.arriving_rows(chunk)) : Tensor();
    };
    result = {{}, own(plan.gathered_rows), own(plan.gathered_weight), own(plan.gathered_key)};
  } else {
    std::vector<AllToAllPart> parts;
    const auto send = [&](const Tensor& gathered, Tensor& arriving) {
      if (!gathered.defined()) return;
      arriving = rows_like(stream, gathered, plan.arriving_rows(chunk));
      parts.push_back({gathered, arriving});
    };
    send(plan.gathered_rows, result.rows);
    send(plan.gathered_weight, result.weight);
    send(plan.gathered_key, result.key);
    const Label label{dispatch_kind(context, direction), layer_};
    result.work = group_.all_to_all(stream, label, parts, plan.leaving_runs(chunk), plan.arriving_runs(chunk));
  }
  if (--plan.undispatched == 0) plan.gathered_from = plan.gathered_rows = plan.gathered_weight = plan.gathered_key = Tensor();
  return result;
}

Work DirectExchange::return_rows(Context& context, Direction direction, ExchangePlan& any_plan, Index chunk, const Tensor& rows,
                                 const Tensor& scalar) {
  const Span span(context.profiler, kReturn);
  Stream& stream = context.stream;
  auto& plan = dynamic_cast<Plan&>(any_plan);
  if (group_.size() == 1 && plan.chunks() == 1) {
    plan.returned_rows = rows;
    plan.returned_scalar = scalar;
    return {};
  }
  if (!plan.returned_rows.defined()) plan.returned_rows = rows_like(stream, rows, plan.leaving_rows());
  if (!plan.returned_scalar.defined() && scalar.defined()) plan.returned_scalar = rows_like(stream, scalar, plan.leaving_rows());
  std::vector<AllToAllPart> parts = {{rows, plan.returned_rows}};
  if (scalar.defined()) parts.push_back({scalar, plan.returned_scalar});
  const Label label{combine_kind(context, direction), layer_};
  return group_.all_to_all(stream, label, parts, plan.arriving_runs(chunk), plan.leaving_runs(chunk));
}

void DirectExchange::combine(Context& context, ExchangePlan& any_plan, const Tensor& y, const Tensor& slot_scalar) {
  const Span span(context.profiler, kCombinePhase);
  Stream& stream = context.stream;
  auto& plan = dynamic_cast<Plan&>(any_plan);
  ops::combine_rows(stream, std::exchange(plan.returned_rows, {}), plan.position, plan.by_token, y);
  const Tensor scalars = std::exchange(plan.returned_scalar, {});
  if (scalars.defined()) ops::scatter_values(stream, scalars, plan.by_expert.order.row_range(0, plan.leaving_rows()), slot_scalar);
}

std::unique_ptr<Exchange> make(Communicator& group, Index experts, Index chunks, int layer) {
  return std::make_unique<DirectExchange>(group, experts, chunks, layer);
}

}  // namespace

ExchangeKind direct_exchange() { return {"direct", make}; }

}  // namespace yard
