#pragma once

#include <memory>

#include "comm/communicator.h"
#include "core/nn/module.h"

namespace yard {

/// How many ranks along each axis; their product is the number of ranks.
struct MeshShape {
  int expert = 1, data = 1;
  int ranks() const noexcept { return expert * data; }
};

enum class Axis : std::uint8_t { expert, data };  // fastest-varying first: rank = data * expert degree + expert

/// Names who meets whom. Ranks with the same data coordinate share one set of experts, a shard each (an expert group); ranks with the same
/// expert coordinate are replicas of a shard.
class Mesh {
 public:
  Mesh(std::unique_ptr<Communicator> world, MeshShape);

  const MeshShape& shape() const noexcept { return shape_; }
  int rank() const noexcept { return world_->rank(); }
  int size() const noexcept { return world_->size(); }
  int coordinate(Axis) const noexcept;
  Communicator& world() noexcept { return *world_; }
  /// The ranks that differ from this one along the axis only.
  Communicator& along(Axis);
  /// Who holds a copy of a parameter. dense: every rank; expert: the data axis.
  Communicator& replicas(ParamKind);
  /// Which part of a micro-step's sequences this rank reads: each (data, expert) coordinate its own.
  int batch_shard() const noexcept { return rank(); }
  int batch_shards() const noexcept { return size(); }

 private:
  MeshShape shape_;
  std::unique_ptr<Communicator> world_, expert_, data_;
};

}  // namespace yard
