#include "core/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/ops/host/tasks.h"

namespace yard::ops {
namespace {

void check_heads(const Tensor& qkv, const Heads& heads) {
  check(heads.heads > 0 && heads.kv_heads > 0 && heads.width > 0 && heads.heads % heads.kv_heads == 0,
        "attention needs kv_heads that divide ", "heads, got ", heads.heads, " heads, ", heads.kv_heads, " kv_heads, width ", heads.width);
  check(qkv.shape().rank() == 2 && qkv.cols() == heads.columns(), "attention with ", heads.heads, " + 2 x ", heads.kv_heads, " heads of ",
        heads.width, " needs rows of ", heads.columns(), " values, got ", qkv.shape());
  check(qkv.dtype() == DType::f32 || qkv.dtype() == DType::bf16, "attention works on f32 or bf16, not on ", name_of(qkv.dtype()));
}

void check_positions(const Tensor& positions, const Tensor& qkv) {
  check(positions.dtype() == DType::i32 && positions.elements() == qkv.rows(), "attention needs one i32 position a row, got ",
        name_of(positions.dtype()), " ", positions.shape(), " for ", qkv.rows(), " rows");
}

void check_sequences(const Tensor& qkv, const Tensor& positions, const AttentionSettings& settings) {
  check_heads(qkv, settings.heads);
  check_positions(positions, qkv);
  check(settings.length > 0 && qkv.rows() % settings.length == 0, "sequences of length ", settings.length, " cannot have ", qkv.rows(),
        " rows");
}

/// Returns how many fresh rows a sequence has.
Index check_cache(const Tensor& qkv, const Tensor& keys, const Tensor& values, const Tensor& before, const Heads& heads) {
  check_heads(qkv, heads);
  check(keys.shape() == values.shape() && keys.shape().rank() == 4 && keys.shape()[1] == heads.kv_heads && keys.shape()[3] == heads.width,
        "a cache for ", heads.kv_heads, " heads of ", heads.width, " cannot have the shapes ", keys.shape(), " and ", values.shape());
  check(keys.dtype() == qkv.dtype() && values.dtype() == qkv.dtype(), "a cache of ", name_of(keys.dtype()), " cannot serve rows of ",
        name_of(qkv.dtype()));
  const Index sequences = keys.shape()[0];
  check(before.dtype() == DType::i32 && before.elements() == sequences && sequences > 0 && qkv.rows() % sequences == 0, "a cache of ",
        sequences, " sequences needs as many i32 lengths and equally many rows of each, got ", before.shape(), " and ", qkv.rows(),
        " rows");
  return qkv.rows() / sequences;
}

}  // namespace

void rotary(Stream& stream, const Tensor& qkv, const Tensor& positions, Heads heads, float base, float direction) {
  check_heads(qkv, heads);
  check_positions(positions, qkv);
  check(heads.width % 2 == 0, "rotary positions need an even head width, got ", heads.width);
  check(base > 0, "rotary positions need a base above 0, got ", base);
  if (qkv.rows() > 0) dispatch(stream.device(), [&](auto on) { kernels::rotary(on, stream, qkv, positions, heads, base, direction); });
}

AttentionOut attention(Stream& stream, const Tensor& qkv, const Tensor& positions, const AttentionSettings& settings) {
  check_sequences(qkv, positions, settings);
  const Heads& heads = settings.heads;
  AttentionOut result{Tensor(stream, {qkv.rows(), heads.heads * heads.width}, qkv.dtype()), Tensor(stream, {qkv.rows(), heads.heads})};
  if (qkv.rows() > 0) {
    dispatch(stream.device(), [&](auto on) { kernels::attention(on, stream, qkv, positions, settings, result.out, result.log_sum_exp); });
  }
  return result;
}

Tensor attention_backward(Stream& stream, const Tensor& dout, const Tensor& qkv, const Tensor& positions, const AttentionOut& forward,
                          const AttentionSettings& settings) {
  check_sequences(qkv, positions, settings);
  check(dout.shape() == forward.out.shape() && dout.dtype() == qkv.dtype() && forward.out.dtype() == qkv.dtype() &&
            dout.rows() == qkv.rows() && dout.cols() == settings.heads.heads * settings.heads.width,
        "the gradient of attention has the shape ", dout.shape(), ", its result ", forward.out.shape());
  check(forward.log_sum_exp.rows() == qkv.rows() && forward.log_sum_exp.cols() == settings.heads.heads, "attention kept ",
        forward.log_sum_exp.shape(), " for ", qkv.rows(), " rows of ", settings.heads.heads, " heads");
  Tensor dqkv(stream, qkv.shape(), qkv.dtype());
  if (qkv.rows() > 0) {
    dispatch(stream.device(), [&](auto on) { kernels::attention_backward(on, stream, dout, qkv, positions, forward, settings, dqkv); });
  }
  return dqkv;
}

Tensor attention_cached(Stream& stream, const Tensor& qkv, const Tensor& keys, const Tensor& values, const Tensor& before,
                        const AttentionSettings& settings) {
  check_cache(qkv, keys, values, before, settings.heads);
  Tensor out(stream, {qkv.rows(), settings.heads.heads * settings.heads.width}, qkv.dtype());
  if (qkv.rows() > 0) {
    dispatch(stream.device(), [&](auto on) { kernels::attention_cached(on, stream, qkv, keys, values, before, settings, out); });
  }
  return out;
}

void cache_append(Stream& stream, const Tensor& qkv, const Tensor& before, Heads heads, Index fresh, const Tensor& keys,
                  const Tensor& values) {
  const Index rows = check_cache(qkv, keys, values, before, heads);
  check(rows == fresh, "a cache of ", keys.shape()[0], " sequences got ", rows, " rows of each, not ", fresh);
  if (rows > 0) dispatch(stream.device(), [&](auto on) { kernels::cache_append(on, stream, qkv, before, heads, fresh, keys, values); });
}

namespace kernels {
namespace {

/// Cosines and sines by position, kept from call to call: every layer of every step asks for the same.
struct RotaryTable {
  float base = 0;
  Index half = 0, positions = 0;
  std::vector<float> cosines, sines;  // (positions, half)

  void cover(Index wanted, Index wanted_half, float wanted_base) {
    if (base == wanted_base && half == wanted_half && positions >= wanted) return;
    // A text that is being continued asks for one more each time.
    positions = base == wanted_base && half == wanted_half ? std::max(wanted, 2 * positions) : wanted;
    base = wanted_base;
    half = wanted_half;
    cosines.resize(static_cast<std::size_t>(positions * half));
    sines.resize(cosines.size());
    std::vector<float> rates(static_cast<std::size_t>(half));
    for (Index i = 0; i < half; ++i) {
      rates[static_cast<std::size_t>(i)] =
          static_cast<float>(std::pow(static_cast<double>(base), -static_cast<double>(i) / static_cast<double>(half)));
    }
    host::run_tasks(positions, [&](Index position, int) {
      for (Index i = 0; i < half; ++i) {
        const float angle = static_cast<float>(position) * rates[static_cast<std::size_t>(i)];
        cosines[static_cast<std::size_t>(position * half + i)] = std::cos(angle);
        sines[static_cast<std::size_t>(position * half + i)] = std::sin(angle);
      }
    });
  }
};

}  // namespace

void rotary(Cpu, Stream& stream, const Tensor& qkv, const Tensor& positions, Heads heads, float base, float direction) {
  const auto* const position = positions.data<std::int32_t>();
  const auto [least, most] = std::minmax_element(position, position + qkv.rows());
  check(*least >= 0, "a position cannot be ", *least);
  const Index half = heads.width / 2;
  auto& table = stream.kept<RotaryTable>();
  table.cover(*most + 1, half, base);
  constexpr Index kRows = 32;
  with_float_type(qkv.dtype(), [&](auto type) {
    using T = decltype(type);
    T* const values = qkv.data<T>();
    host::run_tasks((qkv.rows() + kRows - 1) / kRows, [&](Index task, int) {
      for (Index row = task * kRows; row < std::min(qkv.rows(), (task + 1) * kRows); ++row) {
        const float* const cosines = table.cosines.data() + position[row] * half;
        const float* const sines = table.sines.data() + position[row] * half;
        for (Index head = 0; head < heads.heads + heads.kv_heads; ++head) {
          T* const first = values + row * heads.columns() + head * heads.width;
          T* const second = first + half;
#pragma omp simd
          for (Index i = 0; i < half; ++i) {
            const float a = first[i];
            const float b = second[i];
            const float s = direction * sines[i];
            first[i] = a * cosines[i] - b * s;
            second[i] = b * cosines[i] + a * s;
          }
        }
      }
    });
  });
}

void cache_append(Cpu, Stream&, const Tensor& qkv, const Tensor& before, Heads heads, Index fresh, const Tensor& keys,
                  const Tensor& values) {
  const Index capacity = keys.shape()[2];
  const std::size_t value = size_of(qkv.dtype());
  const std::size_t bytes = static_cast<std::size_t>(heads.width) * value;
  const auto* const from = static_cast<const std::byte*>(qkv.raw());
  const auto put = [&](const Tensor& cache, Index column, Index to, Index row) {
    std::memcpy(static_cast<std::byte*>(cache.raw()) + static_cast<std::size_t>(to) * bytes,
                from + static_cast<std::size_t>(row * heads.columns() + column) * value, bytes);
  };
  for (Index sequence = 0; sequence < keys.shape()[0]; ++sequence) {
    const Index start = before.data<std::int32_t>()[sequence];
    check(start >= 0 && start + fresh <= capacity, "a cache of ", capacity, " entries cannot take ", fresh, " more after ", start);
    for (Index r = 0; r < fresh; ++r) {
      for (Index head = 0; head < heads.kv_heads; ++head) {
        const Index to = (sequence * heads.kv_heads + head) * capacity + start + r;
        put(keys, (heads.heads + head) * heads.width, to, sequence * fresh + r);
        put(values, (heads.heads + heads.kv_heads + head) * heads.width, to, sequence * fresh + r);
      }
    }
  }
}

}  // namespace kernels

}  // namespace yard::ops
