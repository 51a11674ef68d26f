#pragma once

#include "core/nn/model_shape.h"
#include "proto/config.pb.h"

namespace yard {

/// The small struct that the transformer is made from. Throws Error unless `resolved` has come out of resolve().
ModelShape shape_from_config(const RunConfig& resolved);

}  // namespace yard
