#include "core/ops/routing.h"

#include <algorithm>
#include <cmath>

#include "core/ops/gpu.h"
#include "core/random.h"

namespace yard::ops::kernels {
namespace {

/// Rows that kernels with a warp a row work on: whole warps, so that none leaves a meeting.
__device__ __forceinline__ Index warp_row() { return item() / kWarp; }
__device__ __forceinline__ Index warp_lane() { return threadIdx.x % kWarp; }

// ------------------------------------------------------------------------------------------------------------------- weights of choices

__global__ void weigh_choices(const float* p, const std::int32_t* choice, bool normalize, float scale, float* weight, Index rows, Index k,
                              Index experts) {
  const Index n = item();
  if (n >= rows) return;
  float total = 0;
  for (Index j = 0; j < k; ++j) {
    const std::int32_t e = choice[n * k + j];
    require(e >= -1 && e < experts, "a choice is none of the experts");
    const float score = e < 0 ? 0.0F : p[n * experts + e];
    weight[n * k + j] = score;
    total += score;
  }
  const float factor = normalize ? scale / (total + 1e-20F) : scale;
  for (Index j = 0; j < k; ++j) weight[n * k + j] *= factor;
}

/// One warp a row; the few chosen logits are left to its first lane, once the others are written.
__global__ void weigh_choices_backward(const float* dweight, const float* p, const std::int32_t* choice, const float* weight,
                                       bool normalize, float scale, float* dlogits, Index rows, Index k, Index experts) {
  const Index n = warp_row();
  if (n >= rows) return;
  const float* scores = p + n * experts;
  const float* w = weight + n * k;
  const float* dw = dweight + n * k;
  const std::int32_t* chosen = choice + n * k;
  float* dz = dlogits + n * experts;
  float mean = 0;
  for (Index j = 0; j < k; ++j) {
    require(chosen[j] >= -1 && chosen[j] < experts, "a choice is none of the experts");
    if (normalize) {
      mean += w[j] * dw[j];
    } else if (chosen[j] >= 0) {
      mean += scores[chosen[j]] * scale * dw[j];
    }
  }
  if (normalize) mean /= scale;
  for (Index e = warp_lane(); e < experts; e += kWarp) dz[e] = normalize ? 0.0F : -scores[e] * mean;
  sync_warp();
  if (warp_lane() != 0) return;
  for (Index j = 0; j < k; ++j) {
    if (chosen[j] < 0) continue;
    if (normalize) {
      dz[chosen[j]] = w[j] * (dw[j] - mean);
    } else {
      dz[chosen[j]] += scores[chosen[j]] * scale * dw[j];
    }
  }
}

__global__ void mask_slots(const std::int32_t* ids, std::int32_t* choice, Index slots, Index k) {
  if (item() < slots && ids[item() / k] < 0) choice[item()] = -1;
}

// ------------------------------------------------------------------------------------------------------------------------------ capacity

/// over[slot] = 1 where the slot comes behind `capacity` others of its expert; one block a group, a thread each expert.
__global__ void find_latest(const std::int32_t* choice, Index experts, Index group_slots, Index capacity, std::int32_t* over) {
  const Index first = static_cast<Index>(blockIdx.x) * group_slots;
  for (Index e = threadIdx.x; e < experts; e += blockDim.x) {
    Index taken = 0;
    for (Index slot = first; slot < first + group_slots; ++slot) {
      if (choice[slot] != e) continue;
      over[slot] = taken >= capacity ? 1 : 0;
      ++taken;
    }
  }
}

/// The same where those of the highest weight stay; a thread a slot.
__global__ void find_lightest(const std::int32_t* choice, const float* weight, Index slots, Index group_slots, Index capacity,
                              std::int32_t* over) {
  const Index slot = item();
  if (slot >= slots || choice[slot] < 0) return;
  const Index first = slot / group_slots * group_slots;
  Index ahead = 0;
  for (Index other = first; other < first + group_slots; ++other) {
    if (choice[other] != choice[slot]) continue;
    ahead += weight[other] > weight[slot] || (weight[other] == weight[slot] && other < slot) ? 1 : 0;
  }
  over[slot] = ahead >= capacity ? 1 : 0;
}

constexpr int kQuarters = 4;

/// Drops what is over, and counts it: totals[group] = dropped, then seen, in each quarter of a sequence. One block a group.
__global__ void drop_slots(std::int32_t* choice, const std::int32_t* over, Index experts, Index group_slots, Index k, Index length,
                           std::int64_t* totals) {
  const Index first = static_cast<Index>(blockIdx.x) * group_slots;
  std::int64_t counts[2 * kQuarters] = {};
  for (Index slot = first + threadIdx.x; slot < first + group_slots; slot += blockDim.x) {
    if (choice[slot] < 0) continue;
    require(choice[slot] < experts, "a choice is none of the experts");
    const Index quarter = slot / k % length * kQuarters / length;
    const bool drop = over[slot] != 0;
    for (int q = 0; q < kQuarters; ++q) {
      counts[q] += q == quarter && drop ? 1 : 0;
      counts[kQuarters + q] += q == quarter ? 1 : 0;
    }
    if (drop) choice[slot] = -1;
  }
  for (int i = 0; i < 2 * kQuarters; ++i) {
    const std::int64_t total = block_reduce(counts[i]);
    if (threadIdx.x == 0) totals[static_cast<Index>(blockIdx.x) * 2 * kQuarters + i] = total;
  }
}

__global__ void add_drops(const std::int64_t* totals, Index groups, std::int64_t* dropped, std::int64_t* seen) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= 2 * kQuarters) return;
  std::int64_t total = 0;
  for (Index group = 0; group < groups; ++group) total += totals[group * 2 * kQuarters + i];
  if (i < kQuarters) {
    dropped[i] += total;
  } else {
    seen[i - kQuarters] += total;
  }
}

// -------------------------------------------------------------------------------------------------------------------------------- counts

__global__ void add_layers(const std::int64_t* counts, std::int64_t* y, Index layers, Index cols) {
  if (item() >= cols) return;
  std::int64_t total = 0;
  for (Index layer = 0; layer < layers; ++layer) total += counts[layer * cols + item()];
  y[item()] = total;
}

/// One block an expert and sequence.
__global__ void count_in_sequence(const std::int32_t* choice, Index slots, std::int64_t* counts) {
  const Index first = static_cast<Index>(blockIdx.y) * slots;
  std::int64_t found = 0;
  for (Index slot = first + threadIdx.x; slot < first + slots; slot += blockDim.x) {
    require(choice[slot] >= -1 && choice[slot] < static_cast<std::int32_t>(gridDim.x), "a choice is none of the experts");
    found += choice[slot] == static_cast<std::int32_t>(blockIdx.x) ? 1 : 0;
  }
  found = block_reduce(found);
  if (threadIdx.x == 0) counts[static_cast<Index>(blockIdx.y) * gridDim.x + blockIdx.x] += found;
}

// -------------------------------------------------------------------------------------------------------------------- noise and numbers

/// One block a row.
__global__ void jitter_row(const float* x, float epsilon, std::uint64_t key, const std::int64_t* row_key, float* y, Index cols) {
  const Index row = blockIdx.x;
  const Random random(key_of(key, static_cast<std::uint64_t>(row_key[row])));
  for (Index c = threadIdx.x; c < cols; c += blockDim.x) {
    const float noise = 1 - epsilon + 2 * epsilon * random.uniform(static_cast<std::uint64_t>(c));
    y[row * cols + c] = x[row * cols + c] * noise;
  }
}

__global__ void force_choice(const std::int64_t* row_key, Index experts, float skew, std::uint64_t key, std::int32_t* choice, Index rows,
                             Index k) {
  const Index n = item();
  if (n >= rows) return;
  const std::int64_t token = row_key[n];
  std::int32_t* chosen = choice + n * k;
  const Index start = token % experts * k % experts;
  for (Index j = 0; j < k; ++j) chosen[j] = static_cast<std::int32_t>((start + j) % experts);
  if (skew <= 0 || Random(key).uniform(static_cast<std::uint64_t>(token)) >= skew) return;
  Index place = 0;
  for (Index j = k; j-- > 0;) {
    if (chosen[j] == 0) place = j;
  }
  chosen[place] = chosen[0];
  chosen[0] = 0;
}

__global__ void sigmoid_values(const float* x, float* y, Index count) {
  if (item() < count) y[item()] = 1 / (1 + expf(-x[item()]));
}

__global__ void sigmoid_gradients(const float* dy, const float* y, float* dx, Index count) {
  if (item() < count) dx[item()] = dy[item()] * y[item()] * (1 - y[item()]);
}

__global__ void number_from(std::int64_t* x, Index first, Index count) {
  if (item() < count) x[item()] = first + item();
}

__global__ void number_slots(std::int32_t* x, Index k, Index count) {
  if (item() < count) x[item()] = static_cast<std::int32_t>(item() / k);
}

__global__ void invert_order(const std::int32_t* order, std::int32_t* inverse, Index count, Index slots) {
  if (item() >= count) return;
  const std::int32_t slot = order[item()];
  require(slot >= 0 && slot < slots, "an order names a slot that is not there");
  inverse[slot] = static_cast<std::int32_t>(item());
}

__global__ void add_numbers(const std::int64_t* counts, std::int64_t* into, Index count) {
  if (item() < count) into[item()] += counts[item()];
}

}  // namespace

void choice_weights(Cuda, Stream& stream, const Tensor& p, const Tensor& choice, bool normalize, float scale, const Tensor& weight) {
  launch(weigh_choices, blocks_for(choice.rows()), kBlockThreads, stream, on_device<float>(p), on_device<std::int32_t>(choice), normalize,
         scale, on_device<float>(weight), choice.rows(), choice.cols(), p.cols());
}

void choice_weights_backward(Cuda, Stream& stream, const Tensor& dweight, const Tensor& p, const Tensor& choice, const Tensor& weight,
                             bool normalize, float scale, const Tensor& dlogits) {
  launch(weigh_choices_backward, blocks_for(choice.rows() * kWarp), kBlockThreads, stream, on_device<float>(dweight), on_device<float>(p),
         on_device<std::int32_t>(choice), on_device<float>(weight), normalize, scale, on_device<float>(dlogits), choice.rows(),
         choice.cols(), p.cols());
}

void mask_padding(Cuda, Stream& stream, const Tensor& ids, const Tensor& choice) {
  launch(mask_slots, blocks_for(choice.elements()), kBlockThreads, stream, on_device<std::int32_t>(ids), on_device<std::int32_t>(choice),
         choice.elements(), choice.cols());
}

void drop_over_capacity(Cuda, Stream& stream, const Tensor& choice, const Tensor& weight, Index experts, Index group, Index length,
                        Index capacity, DropPolicy policy, const Tensor& dropped, const Tensor& seen) {
  const Index k = choice.cols();
  const Index slots = choice.elements();
  const Index groups = choice.rows() / group;
  if (slots == 0) return;
  const Tensor over(stream, {slots}, DType::i32);
  if (policy == DropPolicy::position) {
    launch(find_latest, blocks_for(groups, 1), row_threads(4 * experts), stream, on_device<std::int32_t>(choice), experts, group * k,
           capacity, on_device<std::int32_t>(over));
  } else {
    launch(find_lightest, blocks_for(slots), kBlockThreads, stream, on_device<std::int32_t>(choice), on_device<float>(weight), slots,
           group * k, capacity, on_device<std::int32_t>(over));
  }
  const Tensor totals(stream, {groups, 2 * kQuarters}, DType::i64);
  launch(drop_slots, blocks_for(groups, 1), kBlockThreads, stream, on_device<std::int32_t>(choice), on_device<std::int32_t>(over), experts,
         group * k, k, length, on_device<std::int64_t>(totals));
  launch(add_drops, 1, kWarp, stream, on_device<std::int64_t>(totals), groups, on_device<std::int64_t>(dropped),
         on_device<std::int64_t>(seen));
}

void sum_over_layers(Cuda, Stream& stream, const Tensor& counts, const Tensor& y) {
  launch(add_layers, blocks_for(counts.cols()), kBlockThreads, stream, on_device<std::int64_t>(counts), on_device<std::int64_t>(y),
         counts.rows(), counts.cols());
}

void count_by_sequence(Cuda, Stream& stream, const Tensor& choice, Index length, const Tensor& counts) {
  launch(count_in_sequence, dim3(blocks_for(counts.cols(), 1), blocks_for(counts.rows(), 1)), kBlockThreads, stream,
         on_device<std::int32_t>(choice), length * choice.cols(), on_device<std::int64_t>(counts));
}

void jitter(Cuda, Stream& stream, const Tensor& x, float epsilon, std::uint64_t key, const Tensor& row_key, const Tensor& y) {
  launch(jitter_row, blocks_for(x.rows(), 1), row_threads(x.cols()), stream, on_device<float>(x), epsilon, key,
         on_device<std::int64_t>(row_key), on_device<float>(y), x.cols());
}

void forced_choice(Cuda, Stream& stream, const Tensor& row_key, Index experts, float skew, std::uint64_t key, const Tensor& choice) {
  launch(force_choice, blocks_for(choice.rows()), kBlockThreads, stream, on_device<std::int64_t>(row_key), experts, skew, key,
         on_device<std::int32_t>(choice), choice.rows(), choice.cols());
}

void sigmoid(Cuda, Stream& stream, const Tensor& x, const Tensor& y) {
  launch(sigmoid_values, blocks_for(x.elements()), kBlockThreads, stream, on_device<float>(x), on_device<float>(y), x.elements());
}

void sigmoid_backward(Cuda, Stream& stream, const Tensor& dy, const Tensor& y, const Tensor& dx) {
  launch(sigmoid_gradients, blocks_for(y.elements()), kBlockThreads, stream, on_device<float>(dy), on_device<float>(y),
         on_device<float>(dx), y.elements());
}

void count_up(Cuda, Stream& stream, const Tensor& x, Index first) {
  launch(number_from, blocks_for(x.elements()), kBlockThreads, stream, on_device<std::int64_t>(x), first, x.elements());
}

void count_slots(Cuda, Stream& stream, const Tensor& x, Index k) {
  launch(number_slots, blocks_for(x.elements()), kBlockThreads, stream, on_device<std::int32_t>(x), k, x.elements());
}

void invert(Cuda, Stream& stream, const Tensor& order, const Tensor& inverse) {
  stream.set(inverse.raw(), 0xff, inverse.bytes());  // -1
  launch(invert_order, blocks_for(order.elements()), kBlockThreads, stream, on_device<std::int32_t>(order),
         on_device<std::int32_t>(inverse), order.elements(), inverse.elements());
}

void add_counts(Cuda, Stream& stream, const Tensor& counts, const Tensor& into) {
  launch(add_numbers, blocks_for(counts.elements()), kBlockThreads, stream, on_device<std::int64_t>(counts), on_device<std::int64_t>(into),
         counts.elements());
}

}  // namespace yard::ops::kernels
