#include "parallel/mesh.h"

namespace yard {

Mesh::Mesh(Communicator& control, std::unique_ptr<Communicator> world, MeshShape shape)
    : shape_(shape), control_(control), world_(std::move(world)) {
  check_input(shape.expert >= 1 && shape.data >= 1 && shape.ranks() == world_->size(), "mesh.expert (", shape.expert, ") x mesh.data (",
              shape.data, ") must equal the number of ranks, ", world_->size(), "; start with mpirun -np ", shape.ranks());
  expert_ = world_->split(coordinate(Axis::data), rank(), "expert");
  data_ = world_->split(coordinate(Axis::expert), rank(), "data");
}

int Mesh::coordinate(Axis axis) const noexcept { return axis == Axis::expert ? rank() % shape_.expert : rank() / shape_.expert; }

Communicator& Mesh::along(Axis axis) { return axis == Axis::expert ? *expert_ : *data_; }

Communicator& Mesh::replicas(ParamKind kind) { return kind == ParamKind::dense ? *world_ : *data_; }

}  // namespace yard
