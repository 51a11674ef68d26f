#pragma once

#include <functional>
#include <span>
#include <vector>

#include "core/nn/module.h"

namespace yard {

/// The parameters of one group, kind and dtype in one contiguous buffer, so that reductions, the optimizer and norms loop over one array.
struct FlatBuffer {
  struct Segment {
    Parameter* parameter;
    Index first;  // offset of the parameter's elements in the buffer
    Index count;
  };
  Index group = 0;
  ParamKind kind = ParamKind::dense;
  Tensor value;  // (padded) f32 or bf16
  Tensor grad;   // (padded) f32; empty when the store does not train
  std::vector<Segment> segments;
  Index used() const noexcept { return segments.empty() ? 0 : segments.back().first + segments.back().count; }
};

/// Allocates a model's parameters. Groups are numbered in forward order: 0 the embedding, 1 to L the layers, L + 1 the head;
/// backward finishes them in reverse.
class ParameterStore {
 public:
  struct Settings {
    DType compute = DType::f32;                // of matrices; parameters marked full_precision are f32
    bool train = true;                         // whether gradients are needed
    std::function<Index(ParamKind)> replicas;  // buffers are padded to a multiple of this many equal shards; 1 when empty
  };
  /// Visits the model's parameters group by group.
  using Visit = std::function<void(const std::function<void(Index group, Parameter&)>&)>;

  ParameterStore(Stream&, const Visit&, Settings);

  std::vector<FlatBuffer>& buffers() noexcept { return buffers_; }
  const std::vector<FlatBuffer>& buffers() const noexcept { return buffers_; }
  Index groups() const noexcept { return groups_; }
  void zero_gradients(Stream&);
  /// Fills every value from its generator, keyed by (seed, slice name, element).
  void initialise(Stream&, std::uint64_t seed);
  /// Marks the values as changed, which invalidates packed copies.
  void changed();

 private:
  std::vector<FlatBuffer> buffers_;
  Index groups_ = 0;
};

/// Elements [first, first + out.size()) of a parameter's initial value, in f32: a pure function of (seed, slice name, element of the
/// slice).
void initial_values(const Parameter&, std::uint64_t seed, Index first, std::span<float> out);
/// The same on the device of the values, rounded to their dtype.                             out: (count) f32 or bf16
void fill_initial(Stream&, const Parameter&, std::uint64_t seed, Index first, const Tensor& out);

}  // namespace yard
