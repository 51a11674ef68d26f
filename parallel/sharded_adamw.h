#pragma once

#include <vector>

#include "parallel/gradients.h"

namespace yard {

/// What AdamW does at one step.
struct AdamWStep {
  float rate = 0;        // learning rate of this step
  Index t = 1;           // number of this update, from 1
  float grad_scale = 1;  // the clip's factor
};

/// AdamW whose state is split over the replicas of each parameter (ZeRO-1; Rajbhandari et al. 2020): a rank keeps the f32 masters and
/// moments of its share, steps it, and the new values are gathered.
class ShardedAdamW {
 public:
  struct Settings {
    float beta1 = 0.9F, beta2 = 0.95F, epsilon = 1e-8F, decay = 0.1F;
    float router_scale = 1, expert_scale = 1, embedding_scale = 1;  // of the learning rate
  };
  /// One of a rank's pieces of state. master is the value itself where that is f32.
  struct Share {
    Tensor master, first, second;  // (n) f32
  };

  /// Masters start as the parameters' initial values of the seed.
  ShardedAdamW(Stream&, ParameterStore&, Mesh&, GradientReducer&, Settings, std::uint64_t init_seed);

  /// Steps this rank's share with the reducer's gradients and gathers the new values on every replica.
  void step(Context&, const AdamWStep&);

  std::vector<Share>& shares() noexcept { return shares_; }
  /// Where the share of buffer b starts in it.
  Index first(std::size_t buffer) const { return gradients_.first(buffer); }
  /// After masters were set from outside: writes them into the values, and gathers.
  void publish(Context&);

 private:
  float rate_of(const Parameter&, float rate) const;
  void gather(Context&);
  ParameterStore& store_;
  Mesh& mesh_;
  GradientReducer& gradients_;
  Settings settings_;
  std::vector<Share> shares_;
};

}  // namespace yard
