#pragma once

#include "parallel/exchange/exchange.h"

namespace yard {

/// One all-to-all among the ranks of an expert group: every row goes straight to the owner of its expert, all local experts in one piece.
/// On a group of one rank nothing is sent and rows are only put in order.
class DirectExchange final : public Exchange {
 public:
  /// Rank r of the group owns experts [r * local, (r + 1) * local).
  DirectExchange(Communicator& group, Index experts, int layer);
  std::unique_ptr<ExchangePlan> plan(Context&, const Routing&, Index tokens) override;
  Arriving send(Context&, std::string_view phase, ExchangePlan&, Index piece, const Tensor& x, const Tensor& weight,
                const Tensor& key) override;
  Work home(Context&, std::string_view phase, const ExchangePlan&, Index piece, const Tensor& rows, const Tensor& scalar, const Tensor& y,
            const Tensor& slot) override;

 private:
  struct Plan;
  void settle(Context&, Plan&);
  Communicator& group_;
  Index experts_, local_;
  int layer_;
};

}  // namespace yard
