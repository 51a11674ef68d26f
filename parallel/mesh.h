#pragma once

#include <memory>

#include "comm/communicator.h"
#include "core/nn/module.h"

namespace yard {

/// Ranks along each axis; their product is the number of ranks.
struct MeshShape {
  int expert = 1, data = 1;
  int ranks() const noexcept { return expert * data; }
};

enum class Axis : std::uint8_t { expert, data };  // fastest-varying first: rank = data * expert degree + expert

/// The groups that ranks form. Ranks with the same data coordinate share one set of experts, a shard each (an expert group); ranks with the
/// same expert coordinate are replicas of a shard. The mesh owns the communicators of device tensors; host tensors (agreements, texts,
/// metrics) use the control communicator.
class Mesh {
 public:
  /// Collective. `control` must outlive the mesh; `world` has the same ranks and takes tensors of the device that the model computes on.
  Mesh(Communicator& control, std::unique_ptr<Communicator> world, MeshShape);

  const MeshShape& shape() const noexcept { return shape_; }
  int rank() const noexcept { return world_->rank(); }
  int size() const noexcept { return world_->size(); }
  int coordinate(Axis) const noexcept;
  Communicator& control() noexcept { return control_; }
  Communicator& world() noexcept { return *world_; }
  /// The ranks that differ from this one along the axis only.
  Communicator& along(Axis);
  /// The ranks that hold a copy of a parameter. dense: every rank; expert: the data axis.
  Communicator& replicas(ParamKind);
  /// The index of this rank's part of a micro-batch's sequences: every (data, expert) coordinate reads its own.
  int batch_shard() const noexcept { return rank(); }
  int batch_shards() const noexcept { return size(); }

 private:
  MeshShape shape_;
  Communicator& control_;
  std::unique_ptr<Communicator> world_, expert_, data_;
};

}  // namespace yard
