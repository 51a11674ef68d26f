#pragma once

#include <memory>
#include <span>

#include "comm/communicator.h"
#include "core/nn/routers/router.h"

namespace yard {

/// Where every row of a layer's slots goes, made once per layer and micro-step (law 8); forward and backward travel on it. A piece is a set
/// of local experts: an expert's rows arrive whole.
class ExchangePlan {
 public:
  virtual ~ExchangePlan() = default;
  virtual Index pieces() const = 0;
  /// Rows that arrive for each local expert of a piece, known once its rows have been sent, and the first of these experts.
  virtual std::span<const Index> rows_per_expert(Index piece) const = 0;
  virtual Index first_expert(Index piece) const = 0;
};

/// Rows under way to this rank's experts, in expert order, within an expert in the order of the tokens everywhere.
struct Arriving {
  Work work;
  Tensor rows;    // (R, C)
  Tensor weight;  // (R) f32; empty when none were sent
  Tensor key;     // (R) i64; empty when none were sent
};

/// Ships rows to the ranks that own their experts and brings results home. The two directions are transposes of each other.
class Exchange {
 public:
  virtual ~Exchange() = default;
  /// Orders and counts, on the device; nothing is waited for yet.
  virtual std::unique_ptr<ExchangePlan> plan(Context&, const Routing&, Index tokens) = 0;
  /// Sends x[token] of every slot of the piece, with the slot's weight and the token's key where given. The first call on a plan makes the
  /// layer's one host wait: the counts come while the device gathers rows, and are exchanged.
  ///                                                             x: (N, C)  weight: (S) f32 or empty  key: (N) i64 or empty
  virtual Arriving send(Context&, std::string_view phase, ExchangePlan&, Index piece, const Tensor& x, const Tensor& weight,
                        const Tensor& key) = 0;
  /// Returns rows; the wait adds them into y, f32, in slot order, and writes each row's scalar to its slot.
  ///                            rows: (R, C)  scalar: (R) f32 or empty  y: (N, C) f32  slot: (S) f32, zero where a slot is unused, or empty
  virtual Work home(Context&, std::string_view phase, const ExchangePlan&, Index piece, const Tensor& rows, const Tensor& scalar,
                    const Tensor& y, const Tensor& slot) = 0;
};

}  // namespace yard
