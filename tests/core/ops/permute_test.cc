#include "core/ops/permute.h"

#include <algorithm>

#include "tests/core/ops/ops_support.h"

namespace yard {
namespace {

using namespace test;
using Values = std::vector<double>;

void expect_grouped(const Tensor& key, Index keys) {
  const ops::Grouped grouped = ops::group_by(cpu(), key, keys);
  ASSERT_EQ(grouped.offsets.elements(), keys + 1);
  ASSERT_EQ(grouped.order.elements(), key.elements());
  std::vector<std::vector<int>> expected(static_cast<std::size_t>(keys));
  for (Index i = 0; i < key.elements(); ++i) {
    const int k = key.data<std::int32_t>()[i];
    if (k >= 0) expected[static_cast<std::size_t>(k)].push_back(static_cast<int>(i));
  }
  Index at = 0;
  for (Index k = 0; k < keys; ++k) {
    ASSERT_EQ(grouped.offsets.data<std::int32_t>()[k], at);
    for (const int entry : expected[static_cast<std::size_t>(k)]) ASSERT_EQ(grouped.order.data<std::int32_t>()[at++], entry) << "key " << k;
  }
  ASSERT_EQ(grouped.offsets.data<std::int32_t>()[keys], at);
}

TEST(GroupBy, IsAStableSort) {
  for (const Index keys : {1, 2, 8, 3000}) {
    for (const Index count : {0, 1, 33, 5000}) expect_grouped(random_integers({count}, 1, -1, static_cast<int>(keys)), keys);
  }
  expect_grouped(tensor_of({3}, std::vector<int>{-1, -1, -1}), 4);
  expect_grouped(tensor_of({3}, std::vector<int>{-1, -1, -1}), 0);
  expect_grouped(tensor_of({4}, std::vector<int>{3, 3, 3, 3}), 4);
  for (const int threads : {1, 2, 3, 5}) {
    const auto ok = with_threads(threads, [] {
      expect_grouped(random_integers({400000}, 1, -1, 300), 300);
      return !HasFatalFailure();
    });
    EXPECT_TRUE(ok) << threads << " threads";
  }
}

TEST(GroupBy, RefusesKeysOutsideOfTheRange) {
  EXPECT_THROW((void)ops::group_by(cpu(), tensor_of({2}, std::vector<int>{0, 4}), 4), Error);
  EXPECT_THROW((void)ops::group_by(cpu(), tensor_of({2}, std::vector<int>{-2, 0}), 4), Error);
  EXPECT_THROW((void)ops::group_by(cpu(), Tensor::zeros(cpu(), {2}), 4), Error);
}

TEST(GatherRows, CopiesTheRowsNamed) {
  for (const Shape& shape : kShapes) {
    if (shape[0] == 0) continue;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor x = random_tensor(shape, 1, 1, dtype);
      const Tensor index = random_integers({101}, 2, 0, static_cast<int>(shape[0]));
      const Tensor y = ops::gather_rows(cpu(), x, index);
      ASSERT_EQ(y.shape(), Shape({101, shape[1]}));
      for (Index i = 0; i < 101; ++i) {
        expect_same_bits(y.row_range(i, 1), x.row_range(index.data<std::int32_t>()[i], 1), text(shape, dtype));
      }
      EXPECT_EQ(ops::gather_rows(cpu(), x, Tensor::zeros(cpu(), {0}, DType::i32)).elements(), 0);
    }
  }
  const Tensor none = ops::gather_rows(cpu(), Tensor::zeros(cpu(), {0, 5}), Tensor::zeros(cpu(), {0}, DType::i32));
  EXPECT_EQ(none.shape(), Shape({0, 5}));
  for (const DType dtype : {DType::f32, DType::i32, DType::i64, DType::bf16}) {
    Tensor x = Tensor::zeros(cpu(), {9}, dtype);
    for (std::size_t i = 0; i < x.bytes(); ++i) static_cast<unsigned char*>(x.raw())[i] = static_cast<unsigned char>(i * 37 + 1);
    const Tensor y = ops::gather_rows(cpu(), x, tensor_of({2}, std::vector<int>{7, 0}));
    expect_same_bits(y.row_range(0, 1), x.row_range(7, 1), "one value a row");
    expect_same_bits(y.row_range(1, 1), x.row_range(0, 1), "one value a row");
  }
  for (const int wrong : {-1, 9}) {
    EXPECT_THROW((void)ops::gather_rows(cpu(), Tensor::zeros(cpu(), {9, 2}), tensor_of({1}, std::vector<int>{wrong})), Error);
  }
}

/// Slots of `tokens` tokens: whose each is (-1 for none's), and the row that holds its result (-1 for nothing).
struct Slots {
  Tensor token, position;
  ops::Grouped by_token;
  Slots(Index count, Index tokens, Index rows, std::uint64_t seed)
      : token(random_integers({count}, seed, -1, static_cast<int>(tokens))),
        position(random_integers({count}, seed + 1, -1, static_cast<int>(rows))),
        by_token(ops::group_by(cpu(), token, tokens)) {}
};

Values combine64(const Values& rows, const Slots& slots, std::size_t cols, Values y) {
  for (Index s = 0; s < slots.token.elements(); ++s) {
    const int n = slots.token.data<std::int32_t>()[s];
    const int at = slots.position.data<std::int32_t>()[s];
    for (std::size_t c = 0; c < cols && n >= 0 && at >= 0; ++c) {
      y[static_cast<std::size_t>(n) * cols + c] += rows[static_cast<std::size_t>(at) * cols + c];
    }
  }
  return y;
}

TEST(CombineRows, IsTheLoop) {
  for (const Index tokens : {0, 1, 37}) {
    for (const Index cols : {1, 33, 2100}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const Tensor rows = random_tensor({50, cols}, 1, 1, dtype);
        const Slots slots(tokens == 0 ? 0 : 90, tokens, 50, 2);
        const Tensor y = random_tensor({tokens, cols}, 3);
        const Values expected = combine64(to_f64(rows), slots, static_cast<std::size_t>(cols), to_f64(y));
        ops::combine_rows(cpu(), rows, slots.position, slots.by_token, y);
        expect_close(y, expected, 1e-6, text({tokens, cols}, dtype));
      }
    }
  }
}

TEST(CombineRows, AddsInTheOrderOfTheSlots) {
  const Tensor rows = tensor_of({3, 1}, std::vector<float>{1e8F, 1, -1e8F});
  const Tensor token = tensor_of({3}, std::vector<int>{0, 0, 0});
  const auto combined = [&](const std::vector<int>& order) {
    const Tensor y = Tensor::zeros(cpu(), {1, 1});
    ops::combine_rows(cpu(), rows, tensor_of({3}, order), ops::group_by(cpu(), token, 1), y);
    return y.values<float>()[0];
  };
  EXPECT_EQ(combined({0, 2, 1}), 1) << "the large ones cancel first";
  EXPECT_EQ(combined({0, 1, 2}), 0) << "the small one is lost first";
}

TEST(CombineRows, IsTheTransposeOfGathering) {
  const Index tokens = 40;
  const Index cols = 17;
  const Tensor token = random_integers({90}, 1, 0, static_cast<int>(tokens));
  std::vector<int> places(90);
  for (int i = 0; i < 90; ++i) places[static_cast<std::size_t>(i)] = i;
  const Tensor x = random_tensor({tokens, cols}, 2);
  const Tensor y = random_tensor({90, cols}, 3);
  const Tensor back = Tensor::zeros(cpu(), {tokens, cols});
  ops::combine_rows(cpu(), y, tensor_of({90}, places), ops::group_by(cpu(), token, tokens), back);
  const double away = inner(to_f64(ops::gather_rows(cpu(), x, token)), to_f64(y));
  const double home = inner(to_f64(x), to_f64(back));
  EXPECT_NEAR(away, home, 1e-5 * std::sqrt(inner(to_f64(x), to_f64(x)) * inner(to_f64(back), to_f64(back))));
}

TEST(Permute, DispatchAndCombineAreTransposes) {
  // As a layer uses them: slots sorted by expert go out as rows; the row of a slot is its place in that order.
  const Index tokens = 40;
  const Index cols = 17;
  const Tensor token = random_integers({90}, 1, 0, static_cast<int>(tokens));
  const Tensor expert = random_integers({90}, 2, -1, 6);
  const ops::Grouped by_expert = ops::group_by(cpu(), expert, 6);
  const Index sent = by_expert.offsets.data<std::int32_t>()[6];
  const Tensor leaving = by_expert.order.row_range(0, sent);
  std::vector<int> position(90, -1);
  for (Index j = 0; j < sent; ++j) position[static_cast<std::size_t>(leaving.data<std::int32_t>()[j])] = static_cast<int>(j);
  const Tensor x = random_tensor({tokens, cols}, 3);
  const Tensor y = random_tensor({sent, cols}, 4);
  const Tensor out = ops::gather_rows(cpu(), x, ops::gather_rows(cpu(), token, leaving));
  const Tensor back = Tensor::zeros(cpu(), {tokens, cols});
  ops::combine_rows(cpu(), y, tensor_of({90}, position), ops::group_by(cpu(), token, tokens), back);
  EXPECT_LT(sent, 90) << "some slots are unused";
  EXPECT_NEAR(inner(to_f64(out), to_f64(y)), inner(to_f64(x), to_f64(back)), 1e-4);
}

TEST(CombineRows, RefusesWhatDoesNotFit) {
  const Slots slots(9, 4, 5, 1);
  const Tensor rows = Tensor::zeros(cpu(), {5, 3});
  const Tensor y = Tensor::zeros(cpu(), {4, 3});
  EXPECT_NO_THROW(ops::combine_rows(cpu(), rows, slots.position, slots.by_token, y));
  EXPECT_THROW(ops::combine_rows(cpu(), rows.row_range(0, 2), slots.position, slots.by_token, y), Error) << "positions beyond the rows";
  EXPECT_THROW(ops::combine_rows(cpu(), rows, slots.position, slots.by_token, Tensor::zeros(cpu(), {5, 3})), Error);
  EXPECT_THROW(ops::combine_rows(cpu(), rows, slots.position, slots.by_token, Tensor::zeros(cpu(), {4, 2})), Error);
  EXPECT_THROW(ops::combine_rows(cpu(), rows, slots.position, slots.by_token, Tensor::zeros(cpu(), {4, 3}, DType::bf16)), Error);
}

TEST(ScatterValues, IsTheInverseOfGathering) {
  const Tensor order = ops::group_by(cpu(), random_integers({1000}, 1, 0, 17), 17).order;
  const Tensor x = random_tensor({1000}, 2);
  const Tensor back = Tensor::zeros(cpu(), {1000});
  ops::scatter_values(cpu(), ops::gather_rows(cpu(), x, order), order, back);
  expect_same_bits(back, x, "there and back");
  const Tensor few = tensor_of({3}, std::vector<float>{7, 7, 7});
  ops::scatter_values(cpu(), tensor_of({1}, std::vector<float>{5}), tensor_of({1}, std::vector<int>{1}), few);
  EXPECT_EQ(to_f64(few), (Values{7, 5, 7}));
  EXPECT_THROW(ops::scatter_values(cpu(), few, tensor_of({3}, std::vector<int>{0, 1, 3}), few), Error);
  EXPECT_THROW(ops::scatter_values(cpu(), few, tensor_of({2}, std::vector<int>{0, 1}), few), Error);
}

TEST(Permute, DependsNeitherOnThreadsNorOnOtherTokens) {
  const Tensor rows = random_tensor({100000, 9}, 1);
  const Slots slots(150000, 100000, 100000, 2);
  const Tensor index = random_integers({100000}, 4, 0, 100000);
  const auto run = [&](int threads) {
    return with_threads(threads, [&] {
      const Tensor y = Tensor::zeros(cpu(), {100000, 9});
      ops::combine_rows(cpu(), rows, slots.position, ops::group_by(cpu(), slots.token, 100000), y);
      return std::vector<Tensor>{y, ops::gather_rows(cpu(), rows, index)};
    });
  };
  const auto one = run(1);
  const auto two = run(2);
  for (std::size_t i = 0; i < one.size(); ++i) expect_same_bits(one[i], two[i], "result " + std::to_string(i));
  // The slots of one token alone.
  const Index n = slots.token.data<std::int32_t>()[77];
  Tensor token = slots.token.clone(cpu());
  for (int& value : token.values<std::int32_t>()) value = value == static_cast<int>(n) ? 0 : -1;
  const Tensor alone = Tensor::zeros(cpu(), {1, 9});
  ops::combine_rows(cpu(), rows, slots.position, ops::group_by(cpu(), token, 1), alone);
  expect_same_bits(alone, one[0].row_range(n, 1), "one token alone");
}

}  // namespace
}  // namespace yard
