#pragma once

#include <string_view>
#include <vector>

#include "core/nn/routing/router_kind.h"
#include "core/ops/routing.h"

namespace yard {

/// The largest number of choices per expert and routing group: ceil(factor * K * tokens / experts), at least 4. Choices beyond it are
/// dropped and reported as the scalar "dropped", by quarter of the sequence.
class Capacity {
 public:
  /// The fields of model.router that it uses, and their rules, which throw InputError.
  static std::vector<std::string_view> fields();
  static void rules(Settings&, const RouterFacts&);

  Capacity(const RouterPlace&, const Settings&, RouterReport&);
  /// The choices, with those beyond an expert's capacity set to -1; the same tensor if no capacity applies.           (N, K) i32
  Tensor within(Context&, const Tensor& choice, const Tensor& weight) const;
  /// Whether training may drop choices.
  bool drops() const noexcept { return factor_ > 0; }
  /// Whether routing is non-causal in training: when dropping by weight, a later token can displace an earlier one.
  bool sees_later_tokens() const noexcept { return factor_ > 0 && drop_ != ops::DropPolicy::position; }

 private:
  double factor_, evaluation_factor_;  // 0: no capacity
  Index experts_, group_sequences_;
  ops::DropPolicy drop_;
  Reported dropped_;
};

}  // namespace yard
