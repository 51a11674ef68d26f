#include "core/ops/selection.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "core/ops/loops.h"

namespace yard::ops {
namespace {

void check_scores(const Tensor& scores, const char* what) {
  check(scores.dtype() == DType::f32 && scores.shape().rank() == 2 && scores.cols() > 0, what, " takes (N, E) f32 scores, got ",
        scores.shape(), " ", name_of(scores.dtype()));
}

}  // namespace

LimitedScores limit_groups(Stream& stream, const Tensor& scores, const Tensor& bias, Index groups, Index kept) {
  check_scores(scores, "limit_groups");
  check(groups >= 1 && scores.cols() % groups == 0, "", groups, " groups do not divide ", scores.cols(), " experts");
  check(kept >= 1 && kept <= groups, "between 1 and all ", groups, " groups can be kept, not ", kept);
  check(!bias.defined() || (bias.dtype() == DType::f32 && bias.elements() == scores.cols()),
        "a selection bias has one f32 value for each of ", scores.cols(), " experts, got ", bias.shape());
  LimitedScores result{Tensor(stream, scores.shape()), Tensor(stream, {scores.length()})};
  dispatch(stream.device(), [&](auto on) { kernels::limit_groups(on, stream, scores, bias, groups, kept, result.scores, result.margin); });
  return result;
}

void lower_to(Stream& stream, const Tensor& values, const Tensor& into) {
  check(values.dtype() == DType::f32 && into.dtype() == DType::f32 && values.elements() == into.elements(), "minima of ", values.shape(),
        " and ", into.shape(), " need f32 values of one shape");
  dispatch(stream.device(), [&](auto on) { kernels::lower_to(on, stream, values, into); });
}

Tensor choice_scores_backward(Stream& stream, const Tensor& dweight, const Tensor& scores, const Tensor& choice, const Tensor& weight,
                              bool normalize, float scale) {
  check_scores(scores, "choice_scores_backward");
  check(choice.dtype() == DType::i32 && choice.length() == scores.length(), "choices ", choice.shape(), " are not those of scores ",
        scores.shape());
  check(dweight.elements() == choice.elements() && weight.elements() == choice.elements(), "a router's weights and their gradient must be ",
        choice.shape(), ", got ", weight.shape(), " and ", dweight.shape());
  Tensor dscores(stream, scores.shape());
  dispatch(stream.device(),
           [&](auto on) { kernels::choice_scores_backward(on, stream, dweight, scores, choice, weight, normalize, scale, dscores); });
  return dscores;
}

NormalizedRows normalize_rows(Stream& stream, const Tensor& scores) {
  check_scores(scores, "normalize_rows");
  NormalizedRows result{Tensor(stream, scores.shape()), Tensor(stream, {scores.length()})};
  dispatch(stream.device(), [&](auto on) { kernels::normalize_rows(on, stream, scores, result.q, result.sum); });
  return result;
}

void add_normalized_gradient(Stream& stream, const NormalizedRows& rows, const Tensor& ids, const Tensor& coefficient,
                             const Tensor& dscores) {
  check(dscores.shape() == rows.q.shape() && ids.elements() == rows.q.length(), "the gradient of scores ", rows.q.shape(), " cannot be ",
        dscores.shape(), " for ", ids.elements(), " tokens");
  check(coefficient.cols() == rows.q.cols() && rows.q.rows() % std::max<Index>(1, coefficient.rows()) == 0, "coefficients ",
        coefficient.shape(), " do not fit scores ", rows.q.shape());
  dispatch(stream.device(), [&](auto on) { kernels::add_normalized_gradient(on, stream, rows.q, rows.sum, ids, coefficient, dscores); });
}

void step_selection_bias(Stream& stream, const Tensor& counts, float rate, const Tensor& bias) {
  check(counts.dtype() == DType::i64 && bias.dtype() == DType::f32 && counts.elements() == bias.elements(), "counts ", counts.shape(),
        " do not fit a selection bias of ", bias.shape());
  dispatch(stream.device(), [&](auto on) { kernels::step_selection_bias(on, stream, counts, rate, bias); });
}

namespace kernels {
namespace {

constexpr float kTiny = 1e-20F;  // keeps quotients finite where all scores are zero

/// The sum of the two largest values, or the only value.
float group_score(const float* scores, Index count) {
  float first = -std::numeric_limits<float>::infinity();
  float second = first;
  for (Index i = 0; i < count; ++i) {
    if (scores[i] > first) {
      second = first;
      first = scores[i];
    } else if (scores[i] > second) {
      second = scores[i];
    }
  }
  return count == 1 ? first : first + second;
}

}  // namespace

void limit_groups(Cpu, Stream&, const Tensor& scores, const Tensor& bias, Index groups, Index kept, const Tensor& y, const Tensor& margin) {
  const Index experts = scores.cols();
  const Index each = experts / groups;
  parallel_ranges(scores.length(), 4 * experts + groups * groups, 1, [&](Index first, Index last) {
    std::vector<float> of_group(static_cast<std::size_t>(groups));
    for (Index n = first; n < last; ++n) {
      const float* const s = scores.data<float>() + n * experts;
      float* const out = y.data<float>() + n * experts;
      for (Index e = 0; e < experts; ++e) out[e] = bias.defined() ? s[e] + bias.data<float>()[e] : s[e];
      float& gap = margin.data<float>()[n];
      gap = std::numeric_limits<float>::infinity();
      if (kept == groups) continue;
      for (Index g = 0; g < groups; ++g) of_group[static_cast<std::size_t>(g)] = group_score(out + g * each, each);
      float worst_kept = 0;
      float best_left = 0;
      for (Index g = 0; g < groups; ++g) {
        const float own = of_group[static_cast<std::size_t>(g)];
        Index ahead = 0;
        for (Index h = 0; h < groups; ++h) {
          const float other = of_group[static_cast<std::size_t>(h)];
          ahead += other > own || (other == own && h < g) ? 1 : 0;
        }
        if (ahead == kept - 1) worst_kept = own;
        if (ahead == kept) best_left = own;
        if (ahead >= kept) std::fill_n(out + g * each, each, -std::numeric_limits<float>::infinity());
      }
      gap = worst_kept == best_left ? 0.0F : worst_kept - best_left;  // two infinities also tie
    }
  });
}

void lower_to(Cpu, Stream&, const Tensor& values, const Tensor& into) {
  for (Index i = 0; i < into.elements(); ++i) into.data<float>()[i] = std::min(into.data<float>()[i], values.data<float>()[i]);
}

void choice_scores_backward(Cpu, Stream&, const Tensor& dweight, const Tensor& scores, const Tensor& choice, const Tensor& weight,
                            bool normalize, float scale, const Tensor& dscores) {
  const Index k = choice.cols();
  const Index experts = scores.cols();
  parallel_ranges(choice.rows(), 2 * experts + 8 * k, 1, [&](Index first, Index last) {
    for (Index n = first; n < last; ++n) {
      const float* const s = scores.data<float>() + n * experts;
      const float* const w = weight.data<float>() + n * k;
      const float* const dw = dweight.data<float>() + n * k;
      const std::int32_t* const chosen = choice.data<std::int32_t>() + n * k;
      float* const ds = dscores.data<float>() + n * experts;
      std::fill_n(ds, experts, 0.0F);
      float mean = 0;
      float total = 0;
      for (Index j = 0; j < k; ++j) {
        if (chosen[j] < 0) continue;
        mean += w[j] * dw[j];
        total += s[chosen[j]];
      }
      const float factor = normalize ? scale / (total + kTiny) : scale;
      mean = normalize ? mean / scale : 0;
      for (Index j = 0; j < k; ++j) {
        if (chosen[j] >= 0) ds[chosen[j]] = factor * (dw[j] - mean);
      }
    }
  });
}

void normalize_rows(Cpu, Stream&, const Tensor& scores, const Tensor& q, const Tensor& sum) {
  const Index experts = scores.cols();
  parallel_ranges(scores.length(), 4 * experts, 1, [&](Index first, Index last) {
    for (Index n = first; n < last; ++n) {
      const float* const s = scores.data<float>() + n * experts;
      float* const out = q.data<float>() + n * experts;
      const float total = lane_sum(experts, [=](Index e) { return s[e]; }) + kTiny;
      sum.data<float>()[n] = total;
#pragma omp simd
      for (Index e = 0; e < experts; ++e) out[e] = s[e] / total;
    }
  });
}

void add_normalized_gradient(Cpu, Stream&, const Tensor& q, const Tensor& sum, const Tensor& ids, const Tensor& coefficient,
                             const Tensor& dscores) {
  const Index experts = q.cols();
  const Index each = q.rows() / std::max<Index>(1, coefficient.rows());
  parallel_ranges(q.rows(), 8 * experts, 1, [&](Index first, Index last) {
    for (Index n = first; n < last; ++n) {
      if (ids.data<std::int32_t>()[n] < 0) continue;
      const float* const p = q.data<float>() + n * experts;
      const float* const c = coefficient.data<float>() + n / each * experts;
      float* const ds = dscores.data<float>() + n * experts;
      const float total = sum.data<float>()[n];
      const float mean = lane_sum(experts, [=](Index e) { return p[e] * c[e]; });
#pragma omp simd
      for (Index e = 0; e < experts; ++e) ds[e] += (c[e] - mean) / total;
    }
  });
}

void step_selection_bias(Cpu, Stream&, const Tensor& counts, float rate, const Tensor& bias) {
  const auto values = counts.values<std::int64_t>();
  std::int64_t total = 0;
  for (const std::int64_t count : values) total += count;
  const auto experts = static_cast<std::int64_t>(values.size());
  for (std::size_t e = 0; e < values.size(); ++e) {
    const std::int64_t lack = total - experts * values[e];
    if (lack != 0) bias.values<float>()[e] += lack > 0 ? rate : -rate;
  }
}

}  // namespace kernels
}  // namespace yard::ops
