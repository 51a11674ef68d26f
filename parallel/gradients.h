#pragma once

#include <map>
#include <vector>

#include "core/nn/parameters.h"
#include "parallel/mesh.h"

namespace yard {

/// Sums gradients over the replicas of each parameter while backward continues, one group at a time, and leaves each rank with its shard of
/// every buffer. The loss is divided by the global number of targets, so every sum here is a plain sum (law 6).
class GradientReducer {
 public:
  GradientReducer(ParameterStore&, Mesh&);

  /// Posts the reduce-scatters of a group whose gradients are complete on this rank.
  void ready(Context&, Index group);
  /// Waits for all posted sums.
  void finish(Context&);

  /// This rank's shard of buffer b: entries [first(b), first(b) + share(b).elements()).        (n) f32
  const Tensor& share(std::size_t buffer) const { return shares_.at(buffer); }
  Index first(std::size_t buffer) const;

  /// 2-norms of the summed gradients over all ranks; every value counts once, regardless of the layout.
  struct Norms {
    double all = 0, dense = 0, router = 0, expert = 0;  // all^2 = dense^2 + router^2 + expert^2
  };
  /// Collective. Called after `finish`.
  Norms norms(Context&);

 private:
  ParameterStore& store_;
  Mesh& mesh_;
  std::vector<Tensor> shares_;  // one per buffer
  std::vector<Work> posted_;
};

/// The layer of a parameter group as labels give it: kEmbedding, a layer number or kHead (core/nn/parameters.h numbers groups in forward
/// order).
int layer_of_group(const ParameterStore&, Index group);

/// The part of a segment that is in a shard of its buffer.
struct SharePart {
  Parameter* parameter;
  Index in_share;      // offset in the shard, in elements
  Index in_parameter;  // offset in the parameter, in elements
  Index count;
};
/// The parts of all segments in entries [first, first + count) of a buffer, in order.
std::vector<SharePart> parts_of_share(const FlatBuffer&, Index first, Index count);

}  // namespace yard
