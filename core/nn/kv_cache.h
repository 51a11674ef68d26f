#pragma once

#include <vector>

#include "core/ops/attention.h"

namespace yard {

/// Keys (after rotation) and values of the tokens so far, for each layer: (sequences, kv_heads, capacity, head_width) in the compute dtype,
/// allocated once. `before` says how many entries each sequence has; a forward pass appends its new rows.
class KeyValueCache {
 public:
  /// `layers` has one entry per layer.
  KeyValueCache(Stream& stream, const std::vector<ops::Heads>& layers, Index sequences, Index capacity, DType dtype) : capacity_(capacity) {
    before_ = Tensor::zeros(stream, {sequences}, DType::i32);
    for (const ops::Heads& heads : layers) {
      keys_.push_back(Tensor::zeros(stream, {sequences, heads.kv_heads, capacity, heads.width}, dtype));
      values_.push_back(Tensor::zeros(stream, {sequences, heads.kv_heads, capacity, heads.width}, dtype));
    }
  }
  const Tensor& keys(Index layer) const { return keys_.at(static_cast<std::size_t>(layer)); }
  const Tensor& values(Index layer) const { return values_.at(static_cast<std::size_t>(layer)); }
  const Tensor& before() const noexcept { return before_; }  // (sequences) i32
  Index capacity() const noexcept { return capacity_; }
  std::size_t bytes() const noexcept {
    std::size_t sum = 0;
    for (const Tensor& keys : keys_) sum += 2 * keys.bytes();
    return sum;
  }

 private:
  Index capacity_;
  Tensor before_;
  std::vector<Tensor> keys_, values_;
};

}  // namespace yard
