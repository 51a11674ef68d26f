#pragma once

#include <map>
#include <vector>

#include "core/nn/parameters.h"
#include "parallel/mesh.h"

namespace yard {

/// Sums gradients over the replicas of each parameter while backward continues, one group at a time, and leaves each rank its shard of
/// every buffer. The loss was divided by the global number of targets, so every sum here is a plain one (law 6).
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

  /// 2-norms of the summed gradients over the whole world, each value counted once whatever the layout.
  struct Norms {
    double all = 0, dense = 0, router = 0, expert = 0;  // all^2 = dense^2 + router^2 + expert^2
  };
  Norms norms(Context&);

 private:
  ParameterStore& store_;
  Mesh& mesh_;
  std::vector<Tensor> shares_;  // of each buffer
  std::vector<Work> posted_;
};

/// Where the parameters of a group belong: the embedding, a layer or the head (core/nn/parameters.h numbers groups in forward order).
int layer_of_group(const ParameterStore&, Index group);

/// The part of a segment that lies in entries [first, first + count) of its buffer.
struct SharePart {
  Parameter* parameter;
  Index in_share;      // where it starts in the share
  Index in_parameter;  // where it starts in the parameter
  Index count;
};
std::vector<SharePart> parts_of_share(const FlatBuffer&, Index first, Index count);

}  // namespace yard
