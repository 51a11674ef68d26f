#pragma once

#include <functional>
#include <map>
#include <string>

#include "core/nn/parameters.h"
#include "core/nn/routing/router.h"
#include "tests/support/differentiable.h"
#include "tests/support/support.h"

namespace yard::test {

/// Memory and a context for a module that stands alone. Values start random with deviation 0.4.
class LayerRig {
 public:
  using Visit = std::function<void(const std::function<void(Parameter&)>&)>;
  LayerRig(const Visit& visit, Index sequences, Index length, DType compute = DType::f32)
      : store_(cpu(), [&](const auto& see) { visit([&](Parameter& p) { see(0, p); }); }, {compute, true, {}}) {
    tokens.sequences = sequences;
    tokens.sequences_everywhere = sequences;
    tokens.length = length;
    tokens.ids = Tensor::zeros(cpu(), {sequences * length}, DType::i32);
    tokens.positions = Tensor(cpu(), {sequences * length}, DType::i32);
    for (Index i = 0; i < tokens.rows(); ++i) tokens.positions.data<std::int32_t>()[i] = static_cast<std::int32_t>(i % length);
    std::uint64_t seed = 100;
    for (auto& [name, value] : values()) {
      const Tensor random = random_tensor(value.shape(), ++seed, 0.4F);
      for (Index i = 0; i < value.elements(); ++i) value.data<float>()[i] = random.data<float>()[i];
    }
    store_.changed();
    store_.zero_gradients(cpu());
  }

  Context context(Pass pass = Pass::train) {
    Context context{cpu(), profiler, tokens, pass};
    context.seed = 5;
    return context;
  }
  std::map<std::string, Tensor> values() { return by_slices(&Parameter::value); }
  std::map<std::string, Tensor> gradients() { return by_slices(&Parameter::grad); }
  Named<double> named() {
    Named<double> result;
    for (const auto& [name, value] : values()) result[name] = to_f64(value);
    return result;
  }
  /// Every gradient beside the loop's, and the input's under the name "x".
  void expect_gradients(const Tensor& dx, const Differentiated& loop, double bound) {
    expect_close(dx, loop.gradients.at("x"), bound, "dx");
    for (const auto& [name, gradient] : gradients()) {
      ASSERT_TRUE(loop.gradients.contains(name)) << name;
      expect_close(gradient, loop.gradients.at(name), bound, name);
    }
  }

  Tokens tokens;
  Profiler profiler;

 private:
  std::map<std::string, Tensor> by_slices(Tensor Parameter::*what) {
    std::map<std::string, Tensor> result;
    for (auto& buffer : store_.buffers()) {
      for (auto& segment : buffer.segments) {
        for (const Slice& slice : segment.parameter->slices)
          result[slice.name] = (segment.parameter->*what).row_range(slice.row, slice.rows);
      }
    }
    return result;
  }
  ParameterStore store_;
};

/// The loop's gradient beside central differences of its values, for the named arrays.
template <class Loop>
void expect_differences(const Named<double>& at, const Loop& loop, const Differentiated& exact, double bound = 1e-7) {
  for (const auto& [name, values] : at) {
    const auto value = [&](const std::vector<double>& moved) {
      Named<double> there = at;
      there[name] = moved;
      return loop(there);
    };
    expect_close(exact.gradients.at(name), numeric_gradient(value, values), bound, "central differences of " + name);
  }
}

}  // namespace yard::test
