#pragma once

#include <string>
#include <string_view>

namespace yard {

/// What a collective is for: a kind, such as "dispatch", and where in the model it belongs. Kinds are registered names (YARD_COLLECTIVE in
/// core/registered_name.h); records keep the view, so the text must live as long as the program.
struct Label {
  static constexpr int kNowhere = -1, kEmbedding = -2, kHead = -3;

  std::string_view kind;
  int layer = kNowhere;  // a layer's number from 0, or one of the constants

  /// "layer.3.dispatch", "embedding.gradients.dense", "head.parameters.dense", "metrics".
  std::string text() const;
};

}  // namespace yard
