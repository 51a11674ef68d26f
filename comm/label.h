#pragma once

#include <string>
#include <string_view>

namespace yard {

/// The purpose of a collective: its kind, such as "dispatch", and its place in the model. Kinds are registered names (YARD_COLLECTIVE in
/// core/registered_name.h); records store the string_view, so the name needs static storage duration.
struct Label {
  static constexpr int kNowhere = -1, kEmbedding = -2, kHead = -3;

  std::string_view kind;
  int layer = kNowhere;  // layer number from 0, or one of the constants above

  /// "layer.3.dispatch", "embedding.gradients.dense", "head.parameters.dense", "metrics".
  std::string text() const;
};

}  // namespace yard
