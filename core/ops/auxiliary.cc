#include "core/ops/auxiliary.h"

#include <algorithm>

#include "core/ops/loops.h"

namespace yard::ops {

Tensor scaled_counts(Stream& stream, const Tensor& counts, double factor) {
  Tensor y(stream, counts.shape());
  dispatch(stream.device(), [&](auto on) { kernels::scaled_counts(on, stream, counts, factor, y); });
  return y;
}

void add_auxiliary_gradient(Stream& stream, const Tensor& p, const Tensor& log_sum_exp, const Tensor& ids, const Tensor& coefficient,
                            float z, const Tensor& dlogits) {
  check(dlogits.shape() == p.shape(), "the gradient of logits must be ", p.shape(), ", got ", dlogits.shape());
  check(!coefficient.defined() || (coefficient.cols() == p.cols() && p.rows() % std::max<Index>(1, coefficient.rows()) == 0),
        "coefficients ", coefficient.shape(), " do not fit scores ", p.shape());
  dispatch(stream.device(), [&](auto on) { kernels::add_auxiliary_gradient(on, stream, p, log_sum_exp, ids, coefficient, z, dlogits); });
}

Tensor sum_by_sequence(Stream& stream, const Tensor& p, const Tensor& ids, Index length) {
  check(length > 0 && p.rows() % length == 0, "sequences of ", length, " rows do not divide ", p.rows());
  check(p.dtype() == DType::f32 && ids.elements() == p.rows(), "there are ", ids.elements(), " token ids for scores ", p.shape());
  Tensor sums(stream, {p.rows() / length, 1 + p.cols()}, DType::f64);
  dispatch(stream.device(), [&](auto on) { kernels::sum_by_sequence(on, stream, p, ids, length, sums); });
  return sums;
}

void add_balance_loss(Stream& stream, const Tensor& sums, const Tensor& counts, Index choices, double everywhere, const Tensor& into) {
  check(sums.dtype() == DType::f64 && counts.dtype() == DType::i64 && counts.cols() + 1 == sums.cols(), "counts ", counts.shape(),
        " do not fit sums of scores ", sums.shape());
  check(counts.shape().rank() == 1 || counts.rows() == sums.rows(), "counts ", counts.shape(), " are not of ", sums.rows(), " sequences");
  check(into.dtype() == DType::f64 && into.elements() == 1, "a loss is reported as one f64 value, got ", into.shape());
  dispatch(stream.device(), [&](auto on) { kernels::add_balance_loss(on, stream, sums, counts, choices, everywhere, into); });
}

void add_z_loss(Stream& stream, const Tensor& log_sum_exp, const Tensor& ids, Index length, double tokens, const Tensor& into) {
  check(length > 0 && log_sum_exp.elements() % length == 0, "sequences of ", length, " rows do not divide ", log_sum_exp.elements());
  check(into.dtype() == DType::f64 && into.elements() == 1, "a loss is reported as one f64 value, got ", into.shape());
  dispatch(stream.device(), [&](auto on) { kernels::add_z_loss(on, stream, log_sum_exp, ids, length, tokens, into); });
}

void add_to_report(Stream& stream, const Tensor& values, const Tensor& into) {
  check(into.dtype() == DType::f64 && values.elements() == into.elements(), "values ", values.shape(), " cannot be added to a report of ",
        into.shape());
  check(values.dtype() == DType::f32 || values.dtype() == DType::i64, "a report takes f32 or i64 values, got ", name_of(values.dtype()));
  dispatch(stream.device(), [&](auto on) { kernels::add_to_report(on, stream, values, into); });
}

namespace kernels {

void scaled_counts(Cpu, Stream&, const Tensor& counts, double factor, const Tensor& y) {
  for (Index i = 0; i < counts.elements(); ++i) {
    y.data<float>()[i] = static_cast<float>(factor * static_cast<double>(counts.data<std::int64_t>()[i]));
  }
}

void add_auxiliary_gradient(Cpu, Stream&, const Tensor& p, const Tensor& log_sum_exp, const Tensor& ids, const Tensor& coefficient, float z,
                            const Tensor& dlogits) {
  const Index experts = p.cols();
  const Index each = coefficient.defined() ? p.rows() / std::max<Index>(1, coefficient.rows()) : 1;
  parallel_ranges(p.rows(), 8 * experts, 1, [&](Index first, Index last) {
    for (Index n = first; n < last; ++n) {
      if (ids.data<std::int32_t>()[n] < 0) continue;
      const float* scores = p.data<float>() + n * experts;
      float* dz = dlogits.data<float>() + n * experts;
      const float pull = 2 * z * log_sum_exp.data<float>()[n];
      if (!coefficient.defined()) {
        for (Index e = 0; e < experts; ++e) dz[e] += pull * scores[e];
        continue;
      }
      const float* c = coefficient.data<float>() + n / each * experts;
      const float mean = lane_sum(experts, [=](Index e) { return scores[e] * c[e]; });
#pragma omp simd
      for (Index e = 0; e < experts; ++e) dz[e] += scores[e] * (c[e] - mean + pull);
    }
  });
}

void sum_by_sequence(Cpu, Stream&, const Tensor& p, const Tensor& ids, Index length, const Tensor& sums) {
  const Index experts = p.cols();
  const std::int32_t* const id = ids.data<std::int32_t>();
  const float* const scores = p.data<float>();
  double* const parts = sums.data<double>();
  constexpr Index kStrip = 256;  // experts per task, so that one sequence with many experts occupies all threads
  const Index strips = (experts + kStrip - 1) / kStrip;
  parallel_ranges(sums.rows() * strips, 4 * length * std::min(experts, kStrip), 1, [=](Index first, Index last) {
    for (Index task = first; task < last; ++task) {
      const Index s = task / strips;
      const Index from = task % strips * kStrip;
      const Index to = std::min(from + kStrip, experts);
      double* const out = parts + s * (1 + experts);
      Index tokens = 0;
      std::fill(out + 1 + from, out + 1 + to, 0.0);
      for (Index n = s * length; n < (s + 1) * length; ++n) {
        if (id[n] < 0) continue;
        ++tokens;
        const float* const row = scores + n * experts;
#pragma omp simd
        for (Index e = from; e < to; ++e) out[1 + e] += static_cast<double>(row[e]);
      }
      if (from == 0) out[0] = static_cast<double>(tokens);
    }
  });
}

void add_balance_loss(Cpu, Stream&, const Tensor& sums, const Tensor& counts, Index choices, double everywhere, const Tensor& into) {
  const Index experts = counts.cols();
  const double* const parts = sums.data<double>();
  const std::int64_t* const counted = counts.data<std::int64_t>();
  const auto k = static_cast<double>(choices);
  double loss = 0;
  if (counts.shape().rank() == 1) {
    for (Index e = 0; e < experts; ++e) {
      double sum = 0;
      for (Index s = 0; s < sums.rows(); ++s) sum += parts[s * (1 + experts) + 1 + e];
      loss += static_cast<double>(counted[e]) * sum;
    }
    into.data<double>()[0] += loss * (static_cast<double>(experts) / (k * everywhere * everywhere));
    return;
  }
  for (Index s = 0; s < sums.rows(); ++s) {
    const double* const of = parts + s * (1 + experts);
    if (of[0] == 0) continue;
    double balance = 0;
    for (Index e = 0; e < experts; ++e) balance += static_cast<double>(counted[s * experts + e]) * of[1 + e];
    loss += balance * static_cast<double>(experts) / (k * of[0] * of[0]);
  }
  into.data<double>()[0] += loss / everywhere;
}

void add_z_loss(Cpu, Stream&, const Tensor& log_sum_exp, const Tensor& ids, Index length, double tokens, const Tensor& into) {
  double total = 0;
  for (Index first = 0; first < log_sum_exp.elements(); first += length) {
    double squares = 0;
    for (Index n = first; n < first + length; ++n) {
      if (ids.data<std::int32_t>()[n] < 0) continue;
      const auto value = static_cast<double>(log_sum_exp.data<float>()[n]);
      squares += value * value;
    }
    total += squares;
  }
  into.data<double>()[0] += total / tokens;
}

void add_to_report(Cpu, Stream&, const Tensor& values, const Tensor& into) {
  auto* const sums = into.data<double>();
  for (Index i = 0; i < into.elements(); ++i) {
    sums[i] +=
        values.dtype() == DType::f32 ? static_cast<double>(values.data<float>()[i]) : static_cast<double>(values.data<std::int64_t>()[i]);
  }
}

}  // namespace kernels
}  // namespace yard::ops
