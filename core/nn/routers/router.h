#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/nn/module.h"

namespace yard {

/// What a router decides: S slots of (token, expert, weight). S is a host constant of the shape (law 13); an unused slot has expert -1.
struct Routing {
  Tensor token;   // (S) i32: row of x
  Tensor expert;  // (S) i32: global expert
  Tensor weight;  // (S) f32
  Tensor self;    // (N) f32: factor of x itself (copy experts), or empty
};

/// Counts of choices, before dropping, of a micro-step: (MoE layers, experts). Routers fill their row in forward; the rows of all layers
/// are summed over ranks in one collective after the last layer's forward; routers read the sum in backward.
class RoutingTotals {
 public:
  RoutingTotals(Stream& stream, Index moe_layers, Index experts)
      : micro_(Tensor::zeros(stream, {moe_layers, experts}, DType::i64)), step_(Tensor::zeros(stream, {moe_layers, experts}, DType::i64)) {}
  /// This micro-step's counts, (MoE layers, experts) i64.
  const Tensor& micro() const noexcept { return micro_; }
  /// The sums of the micro-steps so far in this step.
  const Tensor& step() const noexcept { return step_; }
  /// This micro-step's counts of one MoE layer, numbered among MoE layers.                        (experts)
  Tensor layer(Index moe_layer) const { return micro_.row_range(moe_layer, 1).reshaped({micro_.cols()}); }
  void begin_step(Stream& stream) { step_ = Tensor::zeros(stream, step_.shape(), DType::i64); }
  void begin_micro(Stream& stream) { micro_ = Tensor::zeros(stream, micro_.shape(), DType::i64); }
  /// After the counts have been summed over ranks.
  void end_micro(Stream& stream);

 private:
  Tensor micro_, step_;
};

/// What a router saw since it was cleared, as sums over this rank's tokens: adding ranks' reports up gives the world's.
struct RouterReport {
  /// sums: (3 + experts) f64: tokens, sum of log-sum-exp squared, sum of per-sequence balance losses, sum of each expert's probability.
  /// drops: (8) i64: choices dropped and choices seen where a capacity applies, by quarter of the sequence.
  Tensor sums, drops;
  RouterReport(Stream& stream, Index experts)
      : sums(Tensor::zeros(stream, {3 + experts}, DType::f64)), drops(Tensor::zeros(stream, {8}, DType::i64)) {}
};

/// The choices of a layer, as they were made, for those who compare runs. `gap`: how far each token was from choosing otherwise.
class RoutingLog {
 public:
  virtual ~RoutingLog() = default;
  virtual void record(const Context&, Index moe_layer, const Tensor& choice /* (N, K) i32 */, const Tensor& gap /* (N) f32 */) = 0;
};

/// Sums a tensor over all ranks: given at construction to routers with state that is not learned by gradient.
using SumOverRanks = std::function<Work(Context&, const Tensor&)>;

/// What a router costs. Everything after it is costed by its slots (law 13).
struct RouterCost {
  double slots_per_token = 0;  // expected choices per token
  Index parameters = 0;        // learned values
  std::vector<MatmulCost> matmuls;
  Index state_bytes = 0;             // not learned, on every rank
  double saved_bytes_per_token = 0;  // kept for backward
};

/// Assigns tokens to experts. Sees rows and, through the context, ids, positions, sequence bounds, step and pass; knows no ranks.
class Router {
 public:
  virtual ~Router() = default;
  virtual Routing forward(Context&, const Tensor& x, Tape&, RouterReport&) = 0;
  /// dweight: (S) f32, zero for unused slots; dself: like Routing::self. Returns dx; auxiliary losses enter here.
  virtual Tensor backward(Context&, const Tensor& dweight, const Tensor& dself, Tape&) = 0;
  virtual void visit(const std::function<void(Parameter&)>&) {}
  virtual void visit_state(const std::function<void(State&)>&) {}
  /// skipped: the guard dropped this update, change nothing.
  virtual void after_step(Context&, bool skipped) { (void)skipped; }
  /// Whether training lets a token's choice depend on later tokens; such routers are in the written list of leaking ones.
  virtual bool sees_later_tokens() const noexcept { return false; }
  virtual RouterCost cost() const = 0;
};

/// Where a router stands and what it may choose from: the same for every kind.
struct RouterPlace {
  Index layer = 0;      // of the model, from 0
  Index moe_layer = 0;  // among MoE layers, from 0
  Index moe_layers = 1;
  Index width = 0, experts = 0, top_k = 1;
  float deviation = 0.02F;  // of initial values
  std::string name;         // prefix of its parameters: "model.layers.3.block_sparse_moe."
};

/// Weights and form of the auxiliary losses (semantics, section 7).
struct LossSettings {
  enum class Scope : std::uint8_t { batch, sequence };
  enum class Convention : std::uint8_t { megatron, huggingface };
  float balance = 0.01F, z = 0.001F;
  Scope scope = Scope::batch;
  Convention convention = Convention::megatron;
};

/// Token numbers of slots when every token has k of them: 0, 0, 1, 1, 2, 2, ...                     (N * k) i32
Tensor tokens_of_slots(Stream&, Index tokens, Index k);

}  // namespace yard
