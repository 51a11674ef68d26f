#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/nn/module.h"
#include "core/nn/routing/report.h"

namespace yard {

/// What a router decides: S slots of (token, expert, weight). S is a host constant of the shape (law 13); an unused slot has expert -1.
struct Routing {
  Tensor token;         // (S) i32: row of x
  Tensor expert;        // (S) i32: global expert
  Tensor weight;        // (S) f32
  Tensor chosen;        // (S) i32: `expert` before a capacity dropped any; empty where none is
  Tensor margin;        // (N) f32: margin to the next expert; empty for routers that have none
  Tensor local_weight;  // (N, L) f32: weights of what Router::local adds; empty for nothing
};

/// Counts of choices, before dropping, of a micro-batch: (MoE layers, experts). Routers add to their rows in forward; the rows of all
/// layers are summed over ranks in one collective after the last layer's forward; routers read the sums in backward. There are two counts:
/// of the choices that the layer acts on, and of those that a balance loss counts, the top-k of scores without bias and group limits
/// (semantics, section 7). For most routers they are equal.
class RoutingTotals {
 public:
  RoutingTotals(Stream& stream, Index moe_layers, Index experts)
      : all_(Tensor::zeros(stream, {2 * moe_layers, experts}, DType::i64)),
        step_(Tensor::zeros(stream, {moe_layers, experts}, DType::i64)) {}
  /// Both counts of this micro-batch, for the sum over ranks.                                     (2 x MoE layers, experts) i64
  const Tensor& all() const noexcept { return all_; }
  /// This micro-batch's choices.                                                                  (MoE layers, experts) i64
  Tensor micro() const { return all_.row_range(0, step_.rows()); }
  /// What balance losses count of this micro-batch.                                               (MoE layers, experts) i64
  Tensor losses() const { return all_.row_range(step_.rows(), step_.rows()); }
  /// The choices of the micro-batches so far in this step.                                        (MoE layers, experts) i64
  const Tensor& step() const noexcept { return step_; }
  /// The same of one MoE layer, numbered among MoE layers.                                        (experts)
  Tensor layer(Index moe_layer) const { return row(all_, moe_layer); }
  Tensor loss_layer(Index moe_layer) const { return row(all_, step_.rows() + moe_layer); }
  Tensor step_layer(Index moe_layer) const { return row(step_, moe_layer); }
  void begin_step(Stream& stream) { step_ = Tensor::zeros(stream, step_.shape(), DType::i64); }
  void begin_micro(Stream& stream) { all_ = Tensor::zeros(stream, all_.shape(), DType::i64); }
  /// After the counts have been summed over ranks.
  void end_micro(Stream& stream);

 private:
  static Tensor row(const Tensor& counts, Index number) { return counts.row_range(number, 1).reshaped({counts.cols()}); }
  Tensor all_, step_;
};

/// Records what routers chose in training.
class RoutingLog {
 public:
  virtual ~RoutingLog() = default;
  virtual void record(const Context&, Index moe_layer, const Routing&) = 0;
};

/// Collectives over all ranks for state that is not learned by gradient. Every rank calls them in the same order (law 14).
struct Everywhere {
  std::function<Work(Context&, const Tensor&)> sum;                            // in place
  std::function<Work(Context&, const Tensor& own, const Tensor& all)> gather;  // all: the ranks' tensors in rank order
  int rank = 0, ranks = 1;
};

/// What a router costs. Everything after it is costed by its slots (law 13).
struct RouterCost {
  double slots_per_token = 0;  // expected choices per token
  Index parameters = 0;        // learned values
  std::vector<MatmulCost> matmuls;
  Index state_bytes = 0;             // not learned, on every rank
  double saved_bytes_per_token = 0;  // kept for backward
};

/// Assigns tokens to experts. Sees rows and, through the context, ids, positions, sequence bounds, step and pass.
class Router {
 public:
  virtual ~Router() = default;
  virtual Routing forward(Context&, const Tensor& x, Tape&) = 0;
  /// What this rank adds to the layer's output without sending rows, such as copy and constant experts.    (N, C) f32, or empty
  virtual Tensor local(Context&, const Tensor& x, const Routing&) { return (void)x, Tensor(); }
  /// dweight: (S) f32, zero for unused slots; dy: the gradient of the layer's output, for what `local` added. Returns the whole dx;
  /// auxiliary losses enter here.
  virtual Tensor backward(Context&, const Tensor& dweight, const Tensor& dy, Tape&) = 0;
  virtual void visit(const std::function<void(Parameter&)>&) {}
  virtual void visit_state(const std::function<void(State&)>&) {}
  /// Once per global batch; context.totals holds its counts. skipped: the guard dropped this update, change nothing.
  virtual void after_step(Context&, bool skipped) { (void)skipped; }
  /// Whether training lets a token's choice depend on later tokens; such routers are in the written list of non-causal ones.
  virtual bool sees_later_tokens() const noexcept { return false; }
  virtual RouterCost cost() const = 0;
};

/// Which auxiliary losses are added, and in which form (semantics, section 7).
struct LossSettings {
  enum class Scope : std::uint8_t { batch, sequence };
  enum class Convention : std::uint8_t { megatron, huggingface };
  float balance = 0.01F, z = 0.001F;
  Scope scope = Scope::batch;
  Convention convention = Convention::megatron;
};

/// Where a router stands and what it may choose from: the same for every kind.
struct RouterPlace {
  Index layer = 0;      // of the model, from 0
  Index moe_layer = 0;  // among MoE layers, from 0
  Index moe_layers = 1;
  Index width = 0, experts = 0, top_k = 1;
  Index vocabulary = 0;
  float deviation = 0.02F;  // of initial values
  std::uint64_t seed = 0;   // of initial values
  std::string name;         // prefix of its parameters: "model.layers.3.block_sparse_moe."
  LossSettings losses;
};

/// Token numbers of slots when every token has k of them: 0, 0, 1, 1, 2, 2, ...                     (N * k) i32
Tensor tokens_of_slots(Stream&, Index tokens, Index k);

}  // namespace yard
