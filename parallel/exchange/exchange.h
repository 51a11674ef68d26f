#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "core/nn/routing/router.h"

namespace yard {

/// Where the rows of a layer's slots go, made once per layer and micro-batch (law 8); forward and backward use it. A chunk is a set of
/// consecutive local experts whose rows travel together; an expert's rows are never split.
class ExchangePlan {
 public:
  virtual ~ExchangePlan() = default;
  virtual Index chunks() const = 0;
  /// Rows that arrive for each local expert of a chunk; known after the first dispatch.
  virtual std::span<const Index> rows_per_expert(Index chunk) const = 0;
  /// The first of these experts, a local number.
  virtual Index first_expert(Index chunk) const = 0;
};

/// Rows on their way to this rank's experts: grouped by expert, within an expert in global token order. Readable after `work` was waited
/// for.
struct Dispatched {
  Work work;
  Tensor rows;    // (R, C)
  Tensor weight;  // (R) f32; empty if none were sent
  Tensor key;     // (R) i64; empty if none were sent
};

/// The two directions of expert parallelism: dispatch sends tokens to the ranks that own their experts, combine returns results to the
/// ranks of the tokens. They are transposes of each other. One direction at a time is in progress on a plan.
class Exchange {
 public:
  /// Whether rows of the forward or of the backward pass travel, for labels.
  enum class Direction : std::uint8_t { forward, backward };

  virtual ~Exchange() = default;
  /// Sorts slots by expert and posts the exchange of counts. Never waits on the host.
  virtual std::unique_ptr<ExchangePlan> plan(Context&, const Routing&, Index tokens) = 0;
  /// Sends x[token] of every slot whose expert is in the chunk, with the slot's weight and the token's key where given. The first dispatch
  /// on a plan makes the layer's one host wait, for the counts, after it has queued the gathers of rows. Every chunk is dispatched once per
  /// direction, with the same tensors, in any order.
  ///                                                             x: (N, C)  weight: (S) f32 or empty  key: (N) i64 or empty
  virtual Dispatched dispatch(Context&, Direction, ExchangePlan&, Index chunk, const Tensor& x, const Tensor& weight,
                              const Tensor& key) = 0;
  /// Posts the return of a chunk's rows, in the order of its dispatch, with one scalar per row where given.
  ///                                                                                        rows: (R, C)  scalar: (R) f32 or empty
  virtual Work return_rows(Context&, Direction, ExchangePlan&, Index chunk, const Tensor& rows, const Tensor& scalar) = 0;
  /// Adds the returned rows of all chunks to y, for each token in slot order, and writes each row's scalar to its slot. Called once per
  /// direction, after the returns of all chunks were waited for, so that the number of chunks changes no bit.
  ///                                                          y: (N, C) f32  slot_scalar: (S) f32, zero where a slot is unused, or empty
  virtual void combine(Context&, ExchangePlan&, const Tensor& y, const Tensor& slot_scalar) = 0;
};

/// An exchange algorithm as exchange.algorithm names it. Each file NAME.cc of this folder defines one: `ExchangeKind NAME_exchange()`.
struct ExchangeKind {
  std::string_view name;
  /// For a layer's experts [0, experts) over the ranks of a group, in `chunks` chunks. Throws InputError for numbers that do not fit.
  std::unique_ptr<Exchange> (*make)(Communicator& group, Index experts, Index chunks, int layer);
};
/// Every algorithm of this build, in alphabetical order; generated from the names of the folder's files.
std::vector<ExchangeKind> exchange_table();
/// The algorithm of that name. Throws Error if there is none: names are validated when a configuration is resolved.
inline ExchangeKind find_exchange(std::string_view name) {
  for (const ExchangeKind& kind : exchange_table()) {
    if (kind.name == name) return kind;
  }
  fail("there is no exchange algorithm '", name, "'");
}

}  // namespace yard
