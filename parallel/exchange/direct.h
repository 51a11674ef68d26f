#pragma once

#include "parallel/exchange/exchange.h"

namespace yard {

/// One all-to-all per chunk among the ranks of an expert group: every row goes straight to the owner of its expert. In a group of one rank
/// nothing is sent and rows are only sorted.
class DirectExchange final : public Exchange {
 public:
  /// Rank r of the group owns experts [r * local, (r + 1) * local), exchanged in `chunks` sets of consecutive ones.
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

}  // namespace yard
