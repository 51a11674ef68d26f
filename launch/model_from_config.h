#pragma once

#include "core/nn/model_settings.h"
#include "proto/config.pb.h"

namespace yard {

/// The settings that the transformer is made from, layer by layer. Throws Error unless `resolved` is the result of resolve().
ModelSettings model_from_config(const RunConfig& resolved);

}  // namespace yard
