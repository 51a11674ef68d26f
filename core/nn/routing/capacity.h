#pragma once

#include <string_view>
#include <vector>

#include "core/nn/routing/router_kind.h"
#include "core/ops/routing.h"

namespace yard {

/// A limit to what an expert gets from a routing group: ceil(factor * K * tokens / experts), at least 4. Choices over that are dropped and
/// reported as the scalar "dropped", by quarter of the sequence.
class Capacity {
 public:
  /// The fields of model.router that it uses, their rules.
  static std::vector<std::string_view> fields();
  static void rules(Settings&, const RouterFacts&);

  Capacity(const RouterPlace&, const Settings&, RouterReport&);
  /// The choices, those beyond an expert's capacity as -1; the very tensor where nothing is dropped.                  (N, K) i32
  Tensor within(Context&, const Tensor& choice, const Tensor& weight) const;
  /// Whether training may drop choices.
  bool drops() const noexcept { return factor_ > 0; }
  /// Dropping by weight lets a later token displace an earlier one.
  bool sees_later_tokens() const noexcept { return factor_ > 0 && drop_ != ops::DropPolicy::position; }

 private:
  double factor_, evaluation_factor_;  // 0 for none
  Index experts_, group_sequences_;
  ops::DropPolicy drop_;
  Reported dropped_;
};

}  // namespace yard
