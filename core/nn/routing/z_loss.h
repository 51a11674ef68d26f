#pragma once

#include "core/nn/routing/router.h"

namespace yard {

/// The router z-loss, the mean square of the log-sum-exp of the logits (Zoph et al. 2022), reported as the loss "z".
class ZLoss {
 public:
  ZLoss(const RouterPlace& place, RouterReport& report) : z_(place.losses.z), loss_(report.loss("z")) {}
  /// Reports the loss at coefficient 1 and returns the coefficient of log_sum_exp^2 in this rank's loss.     log_sum_exp: (N) f32
  float backward(Context&, const Tensor& log_sum_exp) const;

 private:
  float z_;
  Reported loss_;
};

}  // namespace yard
