#include "core/nn/parameters.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "core/ops/elementwise.h"
#include "core/random.h"

namespace yard {
namespace {

constexpr Index kAlign = 16;  // elements: a parameter starts on a cache line

Index rounded_up(Index value, Index to) { return (value + to - 1) / to * to; }

}  // namespace

ParameterStore::ParameterStore(Stream& stream, const Visit& visit, Settings settings) {
  std::map<std::tuple<Index, ParamKind, DType>, FlatBuffer> made;
  visit([&](Index group, Parameter& parameter) {
    const DType dtype = parameter.full_precision ? DType::f32 : settings.compute;
    FlatBuffer& buffer = made[{group, parameter.kind, dtype}];
    buffer.group = group;
    buffer.kind = parameter.kind;
    buffer.segments.push_back({&parameter, rounded_up(buffer.used(), kAlign), parameter.shape.elements()});
    groups_ = std::max(groups_, group + 1);
  });
  for (auto& [key, buffer] : made) {
    const Index shares = settings.replicas ? settings.replicas(buffer.kind) : 1;
    const Index padded = rounded_up(buffer.used(), shares * kAlign);
    buffer.value = Tensor::zeros(stream, {padded}, std::get<DType>(key));
    if (settings.train) buffer.grad = Tensor::zeros(stream, {padded});
    for (const auto& segment : buffer.segments) {
      segment.parameter->value = buffer.value.flat_range(segment.first, segment.parameter->shape);
      if (settings.train) segment.parameter->grad = buffer.grad.flat_range(segment.first, segment.parameter->shape);
    }
    buffers_.push_back(std::move(buffer));
  }
}

void ParameterStore::zero_gradients(Stream& stream) {
  for (auto& buffer : buffers_) {
    if (buffer.grad.defined()) ops::fill(stream, buffer.grad, 0);
  }
}

void ParameterStore::initialise(Stream& stream, std::uint64_t seed) {
  for (auto& buffer : buffers_) {
    for (const auto& segment : buffer.segments) {
      const Tensor& value = segment.parameter->value;
      fill_initial(stream, *segment.parameter, seed, 0, value.reshaped({value.elements()}));
    }
  }
  changed();
}

void ParameterStore::changed() {
  for (auto& buffer : buffers_) {
    for (const auto& segment : buffer.segments) ++segment.parameter->version;
  }
}

void initial_values(const Parameter& parameter, std::uint64_t seed, Index first, std::span<float> out) {
  if (parameter.init.kind != Init::Kind::normal) {
    std::fill(out.begin(), out.end(), parameter.init.kind == Init::Kind::ones ? 1.0F : 0.0F);
    return;
  }
  const Index width = parameter.shape.elements() / std::max<Index>(1, parameter.shape[0]);
  const Index last = first + static_cast<Index>(out.size());
  for (const Slice& slice : parameter.slices) {
    const Index begin = slice.row * width;
    const Index from = std::max(first, begin);
    const Index to = std::min(last, begin + slice.rows * width);
    const Random random(key_of(seed, key_of(slice.name)));
    const float deviation = parameter.init.deviation;
#pragma omp parallel for schedule(static) if (to - from > 4096)
    for (Index i = from; i < to; ++i)
      out[static_cast<std::size_t>(i - first)] = random.normal(static_cast<std::uint64_t>(i - begin)) * deviation;
  }
}

void fill_initial(Stream& stream, const Parameter& parameter, std::uint64_t seed, Index first, const Tensor& out) {
  constexpr Index kBlock = Index{1} << 20;
  std::vector<float> block;
  for (Index done = 0; done < out.elements(); done += kBlock) {
    const Index count = std::min(kBlock, out.elements() - done);
    block.resize(static_cast<std::size_t>(count));
    initial_values(parameter, seed, first + done, block);
    ops::copy_into(stream, Tensor::of<float>(stream, {count}, block), out.row_range(done, count));
  }
}

}  // namespace yard
