#include "core/ops/elementwise.h"

#include <limits>

#include "tests/core/ops/ops_support.h"

namespace yard {
namespace {

using namespace test;
using Values = std::vector<double>;

constexpr DType kFloats[] = {DType::f32, DType::bf16};

/// f32 results are close, bf16 ones rounded once.
void expect_stored(const Tensor& actual, const Values& expected, const std::string& what) {
  if (actual.dtype() == DType::bf16) {
    expect_rounded(actual, expected, what);
  } else {
    expect_close(actual, expected, 1e-6, what);
  }
}

template <class F>
Values zipped(const Values& a, const Values& b, F&& f) {
  Values result(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) result[i] = f(a[i], b[i]);
  return result;
}

TEST(Elementwise, AddAccumulateAndScaled) {
  for (const Shape& shape : kShapes) {
    for (const DType a_type : kFloats) {
      for (const DType b_type : kFloats) {
        for (const DType out : kFloats) {
          const Tensor a = random_tensor(shape, 1, 2, a_type);
          const Tensor b = random_tensor(shape, 2, 1, b_type);
          const Values sum = zipped(to_f64(a), to_f64(b), [](double x, double y) { return x + y; });
          expect_stored(ops::add(cpu(), a, b, out), sum, text(shape, out) + " add");
          const Tensor into = a.clone(cpu());
          ops::accumulate(cpu(), b, into);
          expect_stored(into, sum, text(shape, a_type) + " accumulate");
          const Values half = zipped(to_f64(a), to_f64(a), [](double x, double) { return x * 0.3; });
          expect_stored(ops::scaled(cpu(), a, 0.3F, out), half, text(shape, out) + " scaled");
        }
      }
    }
  }
}

TEST(Elementwise, RowsScaledAndMultiplied) {
  for (const Shape& shape : kShapes) {
    const auto cols = static_cast<std::size_t>(shape[1]);
    for (const DType a_type : kFloats) {
      for (const DType b_type : kFloats) {
        const Tensor a = random_tensor(shape, 1, 2, a_type);
        const Tensor b = random_tensor(shape, 2, 1, b_type);
        const Tensor gate = random_tensor({shape[0]}, 3);
        const Values right = to_f64(b);
        const Values factor = to_f64(gate);
        Values scaled = to_f64(a);
        Values dot(static_cast<std::size_t>(shape[0]));
        for (std::size_t i = 0; i < scaled.size(); ++i) {
          dot[i / cols] += scaled[i] * right[i];
          scaled[i] *= factor[i / cols];
        }
        expect_stored(ops::scale_rows(cpu(), a, gate, b_type), scaled, text(shape, b_type) + " scale_rows");
        expect_close(ops::row_dot(cpu(), a, b), dot, 1e-5, text(shape, a_type) + " row_dot");
      }
    }
  }
}

TEST(Elementwise, GradientsOfScaleRowsAreScaleRowsAndRowDot) {
  const Values x = to_f64(random_tensor({3, 4}, 1));
  const Values gate = to_f64(random_tensor({3}, 2));
  const Tensor dy = random_tensor({3, 4}, 3);
  const auto loss = [&](const Values& v, const Values& g) {
    Values y(12);
    for (std::size_t i = 0; i < 12; ++i) y[i] = v[i] * g[i / 4];
    return inner(to_f64(dy), y);
  };
  const Tensor x32 = random_tensor({3, 4}, 1);
  const Tensor gate32 = random_tensor({3}, 2);
  expect_close(ops::scale_rows(cpu(), dy, gate32, DType::f32), numeric_gradient([&](const Values& v) { return loss(v, gate); }, x), 1e-6,
               "dx");
  expect_close(ops::row_dot(cpu(), dy, x32), numeric_gradient([&](const Values& g) { return loss(x, g); }, gate), 1e-6, "dgate");
}

TEST(Elementwise, ColumnsAreCopiedOutAndIn) {
  for (const DType type : kFloats) {
    const Tensor x = random_tensor({5, 7}, 1, 1, type);
    for (const auto& [first, count] : {std::pair<Index, Index>{0, 7}, {0, 3}, {2, 4}, {6, 1}}) {
      const Tensor part = ops::columns(cpu(), x, first, count);
      ASSERT_EQ(part.shape(), (Shape{5, count}));
      Values expected;
      for (Index row = 0; row < 5; ++row) {
        for (Index c = 0; c < count; ++c) expected.push_back(to_f64(x)[static_cast<std::size_t>(row * 7 + first + c)]);
      }
      EXPECT_EQ(to_f64(part), expected);
      const Tensor into = random_tensor({5, 7}, 2, 1, type);
      Values overwritten = to_f64(into);
      for (Index row = 0; row < 5; ++row) {
        for (Index c = 0; c < count; ++c)
          overwritten[static_cast<std::size_t>(row * 7 + first + c)] = to_f64(part)[static_cast<std::size_t>(row * count + c)];
      }
      ops::set_columns(cpu(), part, into, first);
      EXPECT_EQ(to_f64(into), overwritten);
    }
    EXPECT_THROW(ops::columns(cpu(), x, 3, 5), Error);
    EXPECT_THROW(ops::set_columns(cpu(), ops::columns(cpu(), x, 0, 2), x, 6), Error);
  }
}

TEST(Elementwise, CastAndCopyRoundOnce) {
  for (const Shape& shape : kShapes) {
    const Tensor x = random_tensor(shape, 1);
    const Tensor rounded = ops::cast(cpu(), x, DType::bf16);
    Tensor expected(cpu(), shape, DType::bf16);
    for (Index i = 0; i < x.elements(); ++i) expected.data<BFloat16>()[i] = BFloat16(x.data<float>()[i]);
    expect_same_bits(rounded, expected, "cast to bf16");
    expect_same_bits(ops::cast(cpu(), ops::cast(cpu(), rounded, DType::f32), DType::bf16), rounded, "there and back");
    expect_same_bits(ops::cast(cpu(), ops::cast(cpu(), x, DType::f64), DType::f32), x, "f64 and back");
    EXPECT_EQ(ops::cast(cpu(), x, DType::f32).raw(), x.raw()) << "the same dtype is the same tensor";
    const Tensor flat(cpu(), {x.elements()}, DType::bf16);
    ops::copy_into(cpu(), x, flat);
    expect_same_bits(flat.reshaped(shape), rounded, "copy into another shape");
  }
  const Tensor ids = random_integers({5}, 1, -9, 9);
  const Tensor copy = Tensor::zeros(cpu(), {5}, DType::i32);
  ops::copy_into(cpu(), ids, copy);
  expect_same_bits(ids, copy, "whole numbers");
  EXPECT_THROW(ops::copy_into(cpu(), ids, Tensor::zeros(cpu(), {5})), Error);
}

TEST(Elementwise, SpecialValuesSurviveRounding) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> special(40, std::bit_cast<float>(0x7f800001U));  // a NaN whose upper half alone would be an infinity
  const Tensor nan = ops::cast(cpu(), tensor_of({40}, special), DType::bf16);
  for (const BFloat16 value : nan.values<BFloat16>()) EXPECT_TRUE(std::isnan(static_cast<float>(value)));
  const Tensor large = ops::cast(cpu(), tensor_of({2}, std::vector<float>{infinity, -3.4028235e38F}), DType::bf16);
  EXPECT_EQ(static_cast<float>(large.values<BFloat16>()[0]), infinity);
  EXPECT_EQ(static_cast<float>(large.values<BFloat16>()[1]), -infinity);
}

TEST(Elementwise, FillSetsEveryValue) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    const Tensor x = Tensor::zeros(cpu(), {3, 7}, dtype);
    ops::fill(cpu(), x.row_range(1, 2), -1.5F);
    for (Index i = 0; i < 21; ++i) EXPECT_EQ(to_f64(x)[static_cast<std::size_t>(i)], i < 7 ? 0 : -1.5);
  }
  EXPECT_THROW(ops::fill(cpu(), Tensor::zeros(cpu(), {3}, DType::i32), 1), Error);
}

TEST(Elementwise, SumsAreTakenInF64) {
  for (const Index count : {0, 1, 31, 4096, 4097, 100003}) {
    const Tensor x = random_tensor({count}, 1, 100);
    Values sums(2);
    for (const double value : to_f64(x)) {
      sums[0] += value;
      sums[1] += value * value;
    }
    const Tensor totals = tensor_of({2}, std::vector<double>{3, 4});
    ops::add_sum(cpu(), x, -0.5, totals.row_range(0, 1));
    ops::add_squared_norm(cpu(), x, totals.row_range(1, 1));
    EXPECT_NEAR(totals.values<double>()[0], 3 - 0.5 * sums[0], 1e-8);
    EXPECT_NEAR(totals.values<double>()[1], 4 + sums[1], 1e-12 * (4 + sums[1]));
  }
  const Tensor total = Tensor::zeros(cpu(), {1}, DType::f64);
  ops::add_squared_norm(cpu(), tensor_of({3}, std::vector<float>{1e30F, 1, -1e30F}), total);
  EXPECT_NEAR(total.values<double>()[0], 2e60, 1e54) << "beyond what f32 holds";
  EXPECT_THROW(ops::add_sum(cpu(), Tensor::zeros(cpu(), {3}, DType::bf16), 1, total), Error);
  EXPECT_THROW(ops::add_sum(cpu(), Tensor::zeros(cpu(), {3}), 1, Tensor::zeros(cpu(), {1})), Error);
}

TEST(Elementwise, AllFiniteFindsOneValueAnywhere) {
  for (const DType dtype : kFloats) {
    for (const Index count : {1, 40, 9000, 100000}) {
      const Tensor x = random_tensor({count}, 1, 1e30F, dtype);
      EXPECT_EQ(ops::all_finite(cpu(), x).values<std::int32_t>()[0], 1);
      for (const Index place : {Index{0}, count / 2, count - 1}) {
        for (const float wrong : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::nanf("")}) {
          const Tensor y = x.clone(cpu());
          ops::fill(cpu(), y.row_range(place, 1), wrong);
          EXPECT_EQ(ops::all_finite(cpu(), y).values<std::int32_t>()[0], 0) << wrong << " at " << place << " of " << count;
        }
      }
    }
    EXPECT_EQ(ops::all_finite(cpu(), Tensor::zeros(cpu(), {0}, dtype)).values<std::int32_t>()[0], 1);
  }
}

Tensor row_keys(Index first, Index count) {
  Tensor keys(cpu(), {count}, DType::i64);
  for (Index i = 0; i < count; ++i) keys.data<std::int64_t>()[i] = first + i;
  return keys;
}

TEST(Elementwise, DropoutFollowsTheKeysOfTheRows) {
  const float rate = 0.3F;
  for (const DType dtype : kFloats) {
    const Tensor x = random_tensor({50, 601}, 1, 1, dtype);
    const Tensor y = ops::dropout(cpu(), x, rate, 77, row_keys(1000, 50), dtype);
    Values expected = to_f64(x);
    Index kept = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const Random random(key_of(77, static_cast<std::int64_t>(1000 + i / 601)));
      const bool keeps = random.uniform(i % 601) >= rate;
      kept += keeps ? 1 : 0;
      expected[i] *= keeps ? 1 / (1 - static_cast<double>(rate)) : 0;
    }
    expect_stored(y, expected, "dropout");
    EXPECT_NEAR(static_cast<double>(kept) / 30050, 0.7, 0.01);
    const Tensor part = ops::dropout(cpu(), x.row_range(20, 5), rate, 77, row_keys(1020, 5), dtype);
    expect_same_bits(part, y.row_range(20, 5), "the rows of another rank");
    expect_same_bits(ops::dropout(cpu(), x, 0, 77, row_keys(0, 50), dtype), x, "rate 0");
  }
  const Tensor x = random_tensor({2, 3}, 1);
  EXPECT_THROW((void)ops::dropout(cpu(), x, 1, 77, row_keys(0, 2), DType::f32), Error);
  EXPECT_THROW((void)ops::dropout(cpu(), x, 0.5F, 77, row_keys(0, 3), DType::f32), Error);
}

TEST(Elementwise, DoesNotDependOnThreads) {
  const Tensor x = random_tensor({100000, 7}, 1);
  const Tensor b = random_tensor({100000, 7}, 2, 1, DType::bf16);
  const Tensor gate = random_tensor({100000}, 3);
  const auto run = [&](int threads) {
    return with_threads(threads, [&] {
      const Tensor into = b.clone(cpu());
      ops::accumulate(cpu(), x, into);
      const Tensor totals = Tensor::zeros(cpu(), {2}, DType::f64);
      ops::add_squared_norm(cpu(), x, totals.row_range(0, 1));
      ops::add_sum(cpu(), x, 1, totals.row_range(1, 1));
      return std::vector<Tensor>{into,
                                 ops::add(cpu(), x, b, DType::bf16),
                                 ops::scaled(cpu(), x, 0.1F, DType::bf16),
                                 ops::scale_rows(cpu(), x, gate, DType::f32),
                                 ops::row_dot(cpu(), x, b),
                                 ops::cast(cpu(), x, DType::bf16),
                                 totals,
                                 ops::dropout(cpu(), x, 0.1F, 3, row_keys(0, 100000), DType::f32)};
    });
  };
  const auto one = run(1);
  for (const int threads : {2, 3}) {
    const auto many = run(threads);
    for (std::size_t i = 0; i < one.size(); ++i) expect_same_bits(one[i], many[i], "result " + std::to_string(i));
  }
  expect_same_bits(ops::row_dot(cpu(), x.row_range(4321, 3), b.row_range(4321, 3)), one[4].row_range(4321, 3), "three rows alone");
}

TEST(Elementwise, RefusesWhatDoesNotFit) {
  const Tensor x = Tensor::zeros(cpu(), {4, 3});
  EXPECT_THROW((void)ops::add(cpu(), x, Tensor::zeros(cpu(), {3, 4}), DType::f32), Error);
  EXPECT_THROW(ops::accumulate(cpu(), x, Tensor::zeros(cpu(), {12})), Error);
  EXPECT_THROW((void)ops::scale_rows(cpu(), x, Tensor::zeros(cpu(), {3}), DType::f32), Error);
  EXPECT_THROW((void)ops::row_dot(cpu(), x, Tensor::zeros(cpu(), {4, 2})), Error);
  EXPECT_THROW((void)ops::add(cpu(), x, Tensor::zeros(cpu(), {4, 3}, DType::i32), DType::f32), Error);
  EXPECT_THROW(ops::copy_into(cpu(), x, Tensor::zeros(cpu(), {11})), Error);
}

}  // namespace
}  // namespace yard
