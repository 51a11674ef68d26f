#pragma once

#include <functional>
#include <span>

#include "core/nn/module.h"
#include "core/ops/matmul.h"

namespace yard {

/// A bank of matrices (groups * out, in) and its matmuls: y = x W^T by groups of rows. Its packed copy follows the parameter's version.
class Linear {
 public:
  explicit Linear(Parameter parameter, Index groups = 1) : parameter_(std::move(parameter)), groups_(groups) {}

  Parameter& parameter() noexcept { return parameter_; }
  const Parameter& parameter() const noexcept { return parameter_; }
  /// The weights of this step.
  const ops::Weights& weights() {
    if (packed_version_ != parameter_.version || packed_version_ == 0) {
      check(parameter_.value.defined(), "parameter ", parameter_.name, " has no memory: make a ParameterStore first");
      weights_ = ops::Weights(parameter_.value, groups_);
      packed_version_ = parameter_.version;
    }
    return weights_;
  }
  Tensor forward(Context& context, const Tensor& x, std::span<const Index> rows) {
    if (context.pass == Pass::decode) return ops::matmul_by_row(context.stream, x, parameter_.value, rows, x.dtype());
    return ops::matmul(context.stream, x, weights(), rows, x.dtype(), context.poll);
  }
  Tensor forward(Context& context, const Tensor& x) {
    const Index rows = x.rows();
    return forward(context, x, {&rows, 1});
  }
  /// Returns dx in dy's dtype; adds to the parameter's gradient.
  Tensor backward(Context& context, const Tensor& dy, const Tensor& x, std::span<const Index> rows) {
    if (parameter_.grad.defined()) ops::matmul_backward_weight(context.stream, dy, x, rows, parameter_.grad, context.poll);
    return ops::matmul_backward_input(context.stream, dy, weights(), rows, dy.dtype(), context.poll);
  }
  Tensor backward(Context& context, const Tensor& dy, const Tensor& x) {
    const Index rows = x.rows();
    return backward(context, dy, x, {&rows, 1});
  }
  /// The cost of its forward matmul with one row per token.
  MatmulCost matmul(std::string_view name) const {
    return {name, parameter_.shape[1], parameter_.shape[0] / groups_, 1, 1, parameter_.full_precision};
  }

 private:
  Parameter parameter_;
  Index groups_;
  ops::Weights weights_;
  std::uint64_t packed_version_ = 0;
};

}  // namespace yard
