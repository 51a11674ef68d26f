#include "core/ops/attention.h"

#include <cmath>

#include "tests/core/ops/ops_support.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;

struct Case {
  std::string name;
  ops::Heads heads;
  Index sequences, length;
  float cap = 0;
  Index document = 0;  // rows of one; 0 for whole sequences
};

const std::vector<Case> kCases = {{"one row", {2, 2, 4}, 1, 1},          {"several heads", {3, 3, 8}, 2, 20},
                                  {"shared keys", {6, 2, 4}, 2, 33},     {"capped", {4, 1, 6}, 1, 17, 2.0F},
                                  {"documents", {2, 2, 8}, 2, 40, 0, 7}, {"two blocks", {4, 2, 4}, 2, 300, 0, 130}};

/// bf16 products of probabilities that one side rounded and the other did not, or that fell beside a step of rounding: a step or two.
double bound(DType dtype) { return dtype == DType::f32 ? 1e-5 : 8e-3; }

Tensor positions(const Case& c) {
  const Tensor result(cpu(), {c.sequences * c.length}, DType::i32);
  for (Index i = 0; i < result.elements(); ++i) {
    const Index row = i % c.length;
    result.data<std::int32_t>()[i] = static_cast<std::int32_t>(c.document == 0 ? row : row % c.document);
  }
  return result;
}

TEST(AttentionTwin, RotaryThereAndBack) {
  for (const Case& c : kCases) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const float direction : {1.0F, -1.0F}) {
        expect_twins(c.name, [&](Side& side) {
          ops::rotary(side.stream, side.changed("qkv", random_tensor({c.sequences * c.length, c.heads.columns()}, 1, 1, dtype)),
                      side.in(positions(c)), c.heads, 1e4F, direction);
        });
      }
    }
  }
}

TEST(AttentionTwin, FarPositionsTurnAlike) {
  const Tensor far = tensor_of({3}, std::vector<int>{0, 40000, 131071});
  expect_twins(
      "far",
      [&](Side& side) {
        ops::rotary(side.stream, side.changed("qkv", random_tensor({3, 24}, 1)), side.in(far), {1, 1, 8}, 1e4F, 1);
      },
      2e-5);
}

TEST(AttentionTwin, ForwardAndBackward) {
  for (const Case& c : kCases) {
    const Index rows = c.sequences * c.length;
    const ops::AttentionSettings settings{c.heads, c.length, 1.0F / std::sqrt(static_cast<float>(c.heads.width)), c.cap};
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor qkv = random_tensor({rows, c.heads.columns()}, 1, 1, dtype);
      const Tensor dout = random_tensor({rows, c.heads.heads * c.heads.width}, 2, 1, dtype);
      const auto forward = ops::attention(cpu(), qkv, positions(c), settings);
      expect_twins(
          c.name + " " + std::string(name_of(dtype)),
          [&](Side& side) {
            const Tensor from = side.in(qkv);
            const Tensor at = side.in(positions(c));
            const auto out = ops::attention(side.stream, from, at, settings);
            side.out("out", out.out);
            side.out("log-sum-exp", out.log_sum_exp);
            const ops::AttentionOut same{side.in(forward.out), side.in(forward.log_sum_exp)};
            side.out("dqkv", ops::attention_backward(side.stream, side.in(dout), from, at, same, settings));
          },
          bound(dtype));
    }
  }
}

TEST(AttentionTwin, LaterRowsDoNotMatter) {
  const Case& c = kCases[5];
  const ops::AttentionSettings settings{c.heads, c.length, 0.5F, 0};
  const Tensor qkv = random_tensor({c.length, c.heads.columns()}, 1);
  const Tensor other = qkv.clone(cpu());
  for (float& value : other.row_range(200, 100).values<float>()) value += 1;
  const Tensor at = positions(c).row_range(0, c.length).to(gpu(), gpu().device());
  const auto out = [&](const Tensor& rows) {
    return ops::attention(gpu(), rows.to(gpu(), gpu().device()), at, settings).out.row_range(0, 200).to(gpu(), Device{});
  };
  expect_same_bits(out(qkv), out(other), "the first rows");
}

TEST(AttentionTwin, TheCacheIsAppendedAndAttended) {
  const Tensor before = tensor_of({3}, std::vector<int>{0, 5, 30});
  for (const ops::Heads& heads : {ops::Heads{4, 2, 8}, ops::Heads{1, 1, 100}}) {
    for (const Index fresh : {1, 4}) {
      for (const float cap : {0.0F, 3.0F}) {
        for (const DType dtype : {DType::f32, DType::bf16}) {
          const Tensor qkv = random_tensor({3 * fresh, heads.columns()}, 1, 1, dtype);
          const Shape cache{3, heads.kv_heads, 40, heads.width};
          const auto attend = [&](Side& side) {
            const Tensor keys = side.changed("keys", random_tensor(cache, 2, 1, dtype));
            const Tensor values = side.changed("values", random_tensor(cache, 3, 1, dtype));
            const Tensor from = side.in(qkv);
            const Tensor filled = side.in(before);
            ops::cache_append(side.stream, from, filled, heads, fresh, keys, values);
            side.out("out", ops::attention_cached(side.stream, from, keys, values, filled, {heads, 0, 0.3F, cap}));
          };
          // The GPU keeps these probabilities in f32, the processor rounds them to bf16.
          expect_twins("fresh " + std::to_string(fresh), attend, dtype == DType::f32 ? 1e-5 : 0x1p-9);
        }
      }
    }
  }
}

}  // namespace
}  // namespace yard
