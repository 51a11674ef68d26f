#include "core/ops/routing.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/ops/loops.h"
#include "core/random.h"

namespace yard::ops {
namespace {

constexpr float kTinyWeight = 1e-20F;  // keeps weights finite where all chosen scores are zero

void check_choices(const Tensor& choice, const Tensor& p) {
  check(choice.dtype() == DType::i32 && choice.shape().rank() == 2, "choices must be (N, K) i32, got ", choice.shape(), " ",
        name_of(choice.dtype()));
  check(p.dtype() == DType::f32 && p.rows() == choice.rows(), "scores must be (N, E) f32 for choices ", choice.shape(), ", got ",
        p.shape());
}

}  // namespace

Tensor choice_weights(Stream& stream, const Tensor& p, const Tensor& choice, bool normalize, float scale) {
  check_choices(choice, p);
  Tensor weight(stream, choice.shape());
  dispatch(stream.device(), [&](auto on) { kernels::choice_weights(on, stream, p, choice, normalize, scale, weight); });
  return weight;
}

Tensor choice_weights_backward(Stream& stream, const Tensor& dweight, const Tensor& p, const Tensor& choice, const Tensor& weight,
                               bool normalize, float scale) {
  check_choices(choice, p);
  check(dweight.elements() == choice.elements() && weight.elements() == choice.elements(), "a router's weights and their gradient must be ",
        choice.shape(), ", got ", weight.shape(), " and ", dweight.shape());
  Tensor dlogits(stream, p.shape());
  dispatch(stream.device(),
           [&](auto on) { kernels::choice_weights_backward(on, stream, dweight, p, choice, weight, normalize, scale, dlogits); });
  return dlogits;
}

void mask_padding(Stream& stream, const Tensor& ids, const Tensor& choice) {
  check(ids.elements() == choice.rows(), "there are ", ids.elements(), " token ids for the choices of ", choice.rows(), " tokens");
  dispatch(stream.device(), [&](auto on) { kernels::mask_padding(on, stream, ids, choice); });
}

void drop_over_capacity(Stream& stream, const Tensor& choice, const Tensor& weight, Index experts, Index group, Index length,
                        Index capacity, DropPolicy policy, const Tensor& dropped, const Tensor& seen) {
  check(group > 0 && choice.rows() % group == 0, "a routing group of ", group, " rows does not divide ", choice.rows());
  check(capacity > 0, "an expert's capacity must be at least 1, got ", capacity);
  dispatch(stream.device(), [&](auto on) {
    kernels::drop_over_capacity(on, stream, choice, weight, experts, group, length, capacity, policy, dropped, seen);
  });
}

Tensor sum_over_layers(Stream& stream, const Tensor& counts) {
  Tensor y(stream, {1, counts.cols()}, DType::i64);
  dispatch(stream.device(), [&](auto on) { kernels::sum_over_layers(on, stream, counts, y); });
  return y;
}

Tensor count_by_sequence(Stream& stream, const Tensor& choice, Index length, Index experts) {
  check(length > 0 && choice.rows() % length == 0, "sequences of ", length, " rows do not divide ", choice.rows());
  Tensor counts = Tensor::zeros(stream, {choice.rows() / length, experts}, DType::i64);
  dispatch(stream.device(), [&](auto on) { kernels::count_by_sequence(on, stream, choice, length, counts); });
  return counts;
}

Tensor jitter(Stream& stream, const Tensor& x, float epsilon, std::uint64_t key, const Tensor& row_key) {
  check(row_key.dtype() == DType::i64 && row_key.elements() == x.rows(), "jitter needs an i64 key for each of ", x.rows(), " rows");
  Tensor y(stream, x.shape());
  dispatch(stream.device(), [&](auto on) { kernels::jitter(on, stream, x, epsilon, key, row_key, y); });
  return y;
}

Tensor forced_choice(Stream& stream, const Tensor& row_key, Index experts, Index k, float skew, std::uint64_t key) {
  check(k <= experts, "cannot choose ", k, " of ", experts, " experts");
  Tensor choice(stream, {row_key.elements(), k}, DType::i32);
  dispatch(stream.device(), [&](auto on) { kernels::forced_choice(on, stream, row_key, experts, skew, key, choice); });
  return choice;
}

Tensor sigmoid(Stream& stream, const Tensor& x) {
  Tensor y(stream, x.shape());
  dispatch(stream.device(), [&](auto on) { kernels::sigmoid(on, stream, x, y); });
  return y;
}

Tensor sigmoid_backward(Stream& stream, const Tensor& dy, const Tensor& y) {
  check(dy.shape() == y.shape(), "a sigmoid's gradient must be ", y.shape(), ", got ", dy.shape());
  Tensor dx(stream, y.shape());
  dispatch(stream.device(), [&](auto on) { kernels::sigmoid_backward(on, stream, dy, y, dx); });
  return dx;
}

void count_up(Stream& stream, const Tensor& x, Index first) {
  dispatch(stream.device(), [&](auto on) { kernels::count_up(on, stream, x, first); });
}

void count_slots(Stream& stream, const Tensor& x, Index k) {
  dispatch(stream.device(), [&](auto on) { kernels::count_slots(on, stream, x, k); });
}

void invert(Stream& stream, const Tensor& order, const Tensor& inverse) {
  dispatch(stream.device(), [&](auto on) { kernels::invert(on, stream, order, inverse); });
}

void add_counts(Stream& stream, const Tensor& counts, const Tensor& into) {
  check(counts.elements() == into.elements(), "counts ", counts.shape(), " cannot be added to ", into.shape());
  dispatch(stream.device(), [&](auto on) { kernels::add_counts(on, stream, counts, into); });
}

namespace kernels {

void choice_weights(Cpu, Stream&, const Tensor& p, const Tensor& choice, bool normalize, float scale, const Tensor& weight) {
  const Index k = choice.cols();
  const Index experts = p.cols();
  parallel_ranges(choice.rows(), 8 * k, 1, [&](Index first, Index last) {
    for (Index n = first; n < last; ++n) {
      const float* scores = p.data<float>() + n * experts;
      const std::int32_t* chosen = choice.data<std::int32_t>() + n * k;
      float* w = weight.data<float>() + n * k;
      float total = 0;
      for (Index j = 0; j < k; ++j) total += w[j] = chosen[j] < 0 ? 0.0F : scores[chosen[j]];
      const float factor = normalize ? scale / (total + kTinyWeight) : scale;
      for (Index j = 0; j < k; ++j) w[j] *= factor;
    }
  });
}

void choice_weights_backward(Cpu, Stream&, const Tensor& dweight, const Tensor& p, const Tensor& choice, const Tensor& weight,
                             bool normalize, float scale, const Tensor& dlogits) {
  const Index k = choice.cols();
  const Index experts = p.cols();
  parallel_ranges(choice.rows(), 8 * experts, 1, [&](Index first, Index last) {
    for (Index n = first; n < last; ++n) {
      const float* scores = p.data<float>() + n * experts;
      const float* w = weight.data<float>() + n * k;
      const float* dw = dweight.data<float>() + n * k;
      const std::int32_t* chosen = choice.data<std::int32_t>() + n * k;
      float* dz = dlogits.data<float>() + n * experts;
      if (normalize) {  // only the chosen logits move: dz_k = w_k (dw_k - sum_j (w_j / scale) dw_j)
        std::fill(dz, dz + experts, 0.0F);
        float mean = 0;
        for (Index j = 0; j < k; ++j) mean += w[j] * dw[j];
        mean /= scale;
        for (Index j = 0; j < k; ++j) {
          if (chosen[j] >= 0) dz[chosen[j]] = w[j] * (dw[j] - mean);
        }
        continue;
      }
      float mean = 0;  // dz = p (dp - sum_j p_j dp_j) with dp zero but for the chosen
      for (Index j = 0; j < k; ++j) {
        if (chosen[j] >= 0) mean += scores[chosen[j]] * scale * dw[j];
      }
      for (Index e = 0; e < experts; ++e) dz[e] = -scores[e] * mean;
      for (Index j = 0; j < k; ++j) {
        if (chosen[j] >= 0) dz[chosen[j]] += scores[chosen[j]] * scale * dw[j];
      }
    }
  });
}

void mask_padding(Cpu, Stream&, const Tensor& ids, const Tensor& choice) {
  const Index k = choice.cols();
  for (Index n = 0; n < choice.rows(); ++n) {
    if (ids.data<std::int32_t>()[n] < 0) std::fill_n(choice.data<std::int32_t>() + n * k, k, -1);
  }
}

void drop_over_capacity(Cpu, Stream&, const Tensor& choice, const Tensor& weight, Index experts, Index group, Index length, Index capacity,
                        DropPolicy policy, const Tensor& dropped, const Tensor& seen) {
  const Index k = choice.cols();
  auto* chosen = choice.data<std::int32_t>();
  const auto* w = weight.data<float>();
  auto quarter = [&](Index slot) { return static_cast<std::size_t>((slot / k) % length * 4 / length); };
  std::vector<std::vector<Index>> slots(static_cast<std::size_t>(experts));
  for (Index first = 0; first < choice.rows(); first += group) {
    for (auto& list : slots) list.clear();
    for (Index slot = first * k; slot < (first + group) * k; ++slot) {
      if (chosen[slot] < 0) continue;
      ++seen.values<std::int64_t>()[quarter(slot)];
      slots[static_cast<std::size_t>(chosen[slot])].push_back(slot);
    }
    for (auto& list : slots) {
      if (static_cast<Index>(list.size()) <= capacity) continue;
      if (policy == DropPolicy::weight) std::stable_sort(list.begin(), list.end(), [&](Index a, Index b) { return w[a] > w[b]; });
      for (auto slot = list.begin() + capacity; slot != list.end(); ++slot) {
        chosen[*slot] = -1;
        ++dropped.values<std::int64_t>()[quarter(*slot)];
      }
    }
  }
}

void sum_over_layers(Cpu, Stream&, const Tensor& counts, const Tensor& y) {
  auto total = y.values<std::int64_t>();
  std::fill(total.begin(), total.end(), 0);
  for (Index i = 0; i < counts.elements(); ++i) total[static_cast<std::size_t>(i % counts.cols())] += counts.data<std::int64_t>()[i];
}

void count_by_sequence(Cpu, Stream&, const Tensor& choice, Index length, const Tensor& counts) {
  const Index each = length * choice.cols();
  parallel_ranges(counts.rows(), 4 * each, 1, [&](Index first, Index last) {
    for (Index s = first; s < last; ++s) {
      std::int64_t* row = counts.data<std::int64_t>() + s * counts.cols();
      for (Index slot = s * each; slot < (s + 1) * each; ++slot) {
        const std::int32_t expert = choice.data<std::int32_t>()[slot];
        if (expert >= 0) ++row[expert];
      }
    }
  });
}

void jitter(Cpu, Stream&, const Tensor& x, float epsilon, std::uint64_t key, const Tensor& row_key, const Tensor& y) {
  const Index width = x.cols();
  parallel_ranges(x.rows(), 32 * width, 1, [&](Index first, Index last) {
    for (Index n = first; n < last; ++n) {
      const Random random(key_of(key, static_cast<std::uint64_t>(row_key.data<std::int64_t>()[n])));
      for (Index c = 0; c < width; ++c) {
        const float noise = 1 - epsilon + 2 * epsilon * random.uniform(static_cast<std::uint64_t>(c));
        y.data<float>()[n * width + c] = x.data<float>()[n * width + c] * noise;
      }
    }
  });
}

void forced_choice(Cpu, Stream&, const Tensor& row_key, Index experts, float skew, std::uint64_t key, const Tensor& choice) {
  const Index k = choice.cols();
  for (Index n = 0; n < choice.rows(); ++n) {
    const std::int64_t token = row_key.data<std::int64_t>()[n];
    std::int32_t* chosen = choice.data<std::int32_t>() + n * k;
    const Index start = token % experts * k % experts;
    for (Index j = 0; j < k; ++j) chosen[j] = static_cast<std::int32_t>((start + j) % experts);
    if (skew > 0 && Random(key).uniform(static_cast<std::uint64_t>(token)) < skew) {
      std::int32_t* first = std::find(chosen, chosen + k, 0);
      if (first == chosen + k) first = chosen;
      *first = chosen[0];
      chosen[0] = 0;
    }
  }
}

void sigmoid(Cpu, Stream&, const Tensor& x, const Tensor& y) {
  for (Index i = 0; i < x.elements(); ++i) y.data<float>()[i] = 1 / (1 + std::exp(-x.data<float>()[i]));
}

void sigmoid_backward(Cpu, Stream&, const Tensor& dy, const Tensor& y, const Tensor& dx) {
  for (Index i = 0; i < y.elements(); ++i) {
    const float s = y.data<float>()[i];
    dx.data<float>()[i] = dy.data<float>()[i] * s * (1 - s);
  }
}

void count_up(Cpu, Stream&, const Tensor& x, Index first) {
  auto values = x.values<std::int64_t>();
  std::iota(values.begin(), values.end(), first);
}

void count_slots(Cpu, Stream&, const Tensor& x, Index k) {
  for (Index i = 0; i < x.elements(); ++i) x.data<std::int32_t>()[i] = static_cast<std::int32_t>(i / k);
}

void invert(Cpu, Stream&, const Tensor& order, const Tensor& inverse) {
  auto values = inverse.values<std::int32_t>();
  std::fill(values.begin(), values.end(), -1);
  const auto sources = order.values<std::int32_t>();
  for (std::size_t i = 0; i < sources.size(); ++i) values[static_cast<std::size_t>(sources[i])] = static_cast<std::int32_t>(i);
}

void add_counts(Cpu, Stream&, const Tensor& counts, const Tensor& into) {
  for (Index i = 0; i < counts.elements(); ++i) into.data<std::int64_t>()[i] += counts.data<std::int64_t>()[i];
}

}  // namespace kernels
}  // namespace yard::ops
