#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/nn/module.h"
#include "core/nn/routing/report.h"

namespace yard {

/// A router's decision: S slots of (token, expert, weight). S depends on shapes only, so the host knows it (law 13); an unused slot has
/// expert -1.
struct Routing {
  Tensor token;         // (S) i32: row of x
  Tensor expert;        // (S) i32: global expert
  Tensor weight;        // (S) f32
  Tensor chosen;        // (S) i32: `expert` before dropping; empty if no capacity applies
  Tensor margin;        // (N) f32: margin to the next expert; empty if the router has none
  Tensor local_weight;  // (N, L) f32: weights of the experts that Router::local computes; empty if there are none
};

/// Counts of a micro-batch's choices before dropping, (MoE layers, experts) i64. Routers add to their rows in forward; the rows of all
/// layers are summed over ranks in one collective after the last layer's forward; routers read the sums in backward. Two kinds are counted:
/// the choices that the layer acts on, and what balance losses count, the top-k of scores without bias and group limits (semantics, section
/// 7). For most routers they are equal.
class RoutingTotals {
 public:
  RoutingTotals(Stream& stream, Index moe_layers, Index experts)
      : all_(Tensor::zeros(stream, {2 * moe_layers, experts}, DType::i64)),
        step_(Tensor::zeros(stream, {moe_layers, experts}, DType::i64)) {}
  /// Both kinds, for the sum over ranks, (2 x MoE layers, experts) i64.
  const Tensor& all() const noexcept { return all_; }
  /// This micro-batch's choices, (MoE layers, experts) i64.
  Tensor micro() const { return all_.row_range(0, step_.rows()); }
  /// What balance losses count in this micro-batch, (MoE layers, experts) i64.
  Tensor losses() const { return all_.row_range(step_.rows(), step_.rows()); }
  /// Sums of the choices over this step's micro-batches so far, (MoE layers, experts) i64.
  const Tensor& step() const noexcept { return step_; }
  /// The same of one MoE layer, numbered among MoE layers.                                        (experts)
  Tensor layer(Index moe_layer) const { return row(all_, moe_layer); }
  Tensor loss_layer(Index moe_layer) const { return row(all_, step_.rows() + moe_layer); }
  Tensor step_layer(Index moe_layer) const { return row(step_, moe_layer); }
  void begin_step(Stream& stream) { step_ = Tensor::zeros(stream, step_.shape(), DType::i64); }
  void begin_micro(Stream& stream) { all_ = Tensor::zeros(stream, all_.shape(), DType::i64); }
  /// Adds the micro-batch's choices to the step's, after they have been summed over ranks.
  void end_micro(Stream& stream);

 private:
  static Tensor row(const Tensor& counts, Index number) { return counts.row_range(number, 1).reshaped({counts.cols()}); }
  Tensor all_, step_;
};

/// Records routers' choices in training.
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

/// A router's cost. The cost of everything after it follows from its slots (law 13).
struct RouterCost {
  double slots_per_token = 0;  // expected choices per token
  Index parameters = 0;        // learned parameters
  std::vector<MatmulCost> matmuls;
  Index state_bytes = 0;             // state that is not learned, on every rank
  double saved_bytes_per_token = 0;  // kept for backward
};

/// Assigns tokens to experts. Sees rows and, through the context, ids, positions, sequence bounds, step and pass.
class Router {
 public:
  virtual ~Router() = default;
  /// Chooses experts for rows.                                                                            x: (N, C)
  virtual Routing forward(Context&, const Tensor& x, Tape&) = 0;
  /// The output of experts that need no dispatch, such as copy and constant experts, added to the layer's. (N, C) f32, or empty
  virtual Tensor local(Context&, const Tensor& x, const Routing&) { return (void)x, Tensor(); }
  /// Returns dx of the router and of `local`, (N, C), and adds the gradients of auxiliary losses. dweight: (S) f32, zero for unused slots;
  /// dy: (N, C), the gradient of the layer's output, for the backward of `local`.
  virtual Tensor backward(Context&, const Tensor& dweight, const Tensor& dy, Tape&) = 0;
  virtual void visit(const std::function<void(Parameter&)>&) {}
  virtual void visit_state(const std::function<void(State&)>&) {}
  /// Called once per global batch; context.totals holds its counts. `skipped`: the guard dropped this update, so state must not change.
  virtual void after_step(Context&, bool skipped) { (void)skipped; }
  /// Whether routing is non-causal in training. The list in tests/launch/causality_test.cc names all such routers.
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

/// A router's position in the model and its dimensions: the same for every kind.
struct RouterPlace {
  Index layer = 0;      // layer number, from 0
  Index moe_layer = 0;  // number among MoE layers, from 0
  Index moe_layers = 1;
  Index width = 0, experts = 0, top_k = 1;
  Index vocabulary = 0;
  float deviation = 0.02F;  // init std
  std::uint64_t seed = 0;   // seed of initial values
  std::string name;         // prefix of its parameters: "model.layers.3.block_sparse_moe."
  LossSettings losses;
};

/// The token of each slot when every token has k slots: 0, 0, 1, 1, 2, 2, ...                       (N * k) i32
Tensor tokens_of_slots(Stream&, Index tokens, Index k);

}  // namespace yard
