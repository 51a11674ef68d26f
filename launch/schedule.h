#pragma once

#include "proto/config.pb.h"

namespace yard {

/// The learning rate of step s, from 0, of N: linear warm-up peak (s + 1) / W over W steps, then
///   cosine    final + (peak - final) (1 + cos(pi (s - W) / (N - W))) / 2     (Loshchilov and Hutter 2017)
///   linear    from peak to final over the N - W steps
///   constant  peak
///   wsd       peak, and over the last decay_steps linearly to final           (warm-up, stable, decay; Hu et al. 2024)
/// The configuration is resolved.
double learning_rate(const RunConfig&, long step);

}  // namespace yard
