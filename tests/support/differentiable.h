#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"

namespace yard::test {

/// The operations of a plain f64 loop as they happened, so that the loop's own gradient can be read off (reverse-mode differentiation).
/// A loop written for a scalar type S gives values with S = double and exact gradients with S = Var: an oracle that shares nothing with the
/// backward functions under test.
class Graph {
 public:
  struct Node {
    double slope[2];
    std::int32_t from[2];
  };
  std::int32_t add(std::int32_t a, double da, std::int32_t b = -1, double db = 0) {
    nodes_.push_back({{da, db}, {a, b}});
    return static_cast<std::int32_t>(nodes_.size()) - 1;
  }
  /// d(result) / d(every node).
  std::vector<double> gradient(std::int32_t result) const {
    std::vector<double> slope(nodes_.size(), 0.0);
    slope.at(static_cast<std::size_t>(result)) = 1;
    for (auto at = static_cast<std::size_t>(result) + 1; at-- > 0;) {
      for (int side = 0; side < 2; ++side) {
        const std::int32_t from = nodes_[at].from[side];
        if (from >= 0) slope[static_cast<std::size_t>(from)] += nodes_[at].slope[side] * slope[at];
      }
    }
    return slope;
  }

 private:
  std::vector<Node> nodes_;
};

/// A number that knows where it came from; without a graph it is a constant.
struct Var {
  double value = 0;
  Graph* graph = nullptr;
  std::int32_t node = -1;
  Var() = default;
  Var(double constant) : value(constant) {}  // NOLINT(google-explicit-constructor): a literal in a loop is a constant
  static Var leaf(Graph& graph, double value) {
    Var result(value);
    result.graph = &graph;
    result.node = graph.add(-1, 0);
    return result;
  }
};

inline Var made(double value, const Var& a, double da, const Var& b = {}, double db = 0) {
  Var result(value);
  result.graph = a.graph != nullptr ? a.graph : b.graph;
  if (result.graph != nullptr) result.node = result.graph->add(a.node, da, b.node, db);
  return result;
}
inline Var operator+(const Var& a, const Var& b) { return made(a.value + b.value, a, 1, b, 1); }
inline Var operator-(const Var& a, const Var& b) { return made(a.value - b.value, a, 1, b, -1); }
inline Var operator*(const Var& a, const Var& b) { return made(a.value * b.value, a, b.value, b, a.value); }
inline Var operator/(const Var& a, const Var& b) { return made(a.value / b.value, a, 1 / b.value, b, -a.value / (b.value * b.value)); }
inline Var operator-(const Var& a) { return made(-a.value, a, -1); }
inline Var& operator+=(Var& a, const Var& b) { return a = a + b; }
inline Var exp(const Var& a) { return made(std::exp(a.value), a, std::exp(a.value)); }
inline Var log(const Var& a) { return made(std::log(a.value), a, 1 / a.value); }
inline Var sqrt(const Var& a) { return made(std::sqrt(a.value), a, 0.5 / std::sqrt(a.value)); }
inline Var tanh(const Var& a) { return made(std::tanh(a.value), a, 1 - std::tanh(a.value) * std::tanh(a.value)); }
inline Var erf(const Var& a) { return made(std::erf(a.value), a, 2 / std::sqrt(M_PI) * std::exp(-a.value * a.value)); }

// The same words for numbers, so that a loop finds them whatever its scalar type is.
inline double exp(double x) { return std::exp(x); }
inline double log(double x) { return std::log(x); }
inline double sqrt(double x) { return std::sqrt(x); }
inline double tanh(double x) { return std::tanh(x); }
inline double erf(double x) { return std::erf(x); }

inline double number(double x) { return x; }
inline double number(const Var& x) { return x.value; }

/// Named arrays of one scalar type: what a loop reads its weights from.
template <class S>
using Named = std::map<std::string, std::vector<S>>;

/// A scalar function of named arrays, given as a loop for any scalar type, with its value and its exact gradients.
struct Differentiated {
  double value = 0;
  Named<double> gradients;
};
template <class Loop>
Differentiated differentiate(const Named<double>& at, const Loop& loop) {
  Graph graph;
  Named<Var> leaves;
  for (const auto& [name, values] : at) {
    for (const double value : values) leaves[name].push_back(Var::leaf(graph, value));
  }
  const Var result = loop(leaves);
  check(result.graph != nullptr, "the loop's result depends on none of its inputs");
  const auto slopes = graph.gradient(result.node);
  Differentiated answer{result.value, {}};
  for (const auto& [name, values] : leaves) {
    for (const Var& leaf : values) answer.gradients[name].push_back(slopes[static_cast<std::size_t>(leaf.node)]);
  }
  return answer;
}

}  // namespace yard::test
