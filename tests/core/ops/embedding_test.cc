#include "core/ops/embedding.h"

#include "tests/core/ops/ops_support.h"

namespace yard {
namespace {

using namespace test;
using Values = std::vector<double>;

Values embedding64(const Values& ids, const Values& table, std::size_t cols, double scale) {
  Values y(ids.size() * cols);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    for (std::size_t c = 0; c < cols && ids[i] >= 0; ++c) y[i * cols + c] = scale * table[static_cast<std::size_t>(ids[i]) * cols + c];
  }
  return y;
}

Values backward64(const Values& ids, const Values& dy, std::size_t cols, double scale, Values dtable) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    for (std::size_t c = 0; c < cols && ids[i] >= 0; ++c) dtable[static_cast<std::size_t>(ids[i]) * cols + c] += scale * dy[i * cols + c];
  }
  return dtable;
}

TEST(Embedding, TheLoopsGradientIsTheDerivative) {
  const Values ids = {2, -1, 0, 2, 1};
  const Values table = to_f64(random_tensor({4, 3}, 1));
  const Values dy = to_f64(random_tensor({5, 3}, 2));
  const auto loss = [&](const Values& v) { return inner(dy, embedding64(ids, v, 3, 0.7)); };
  expect_close(backward64(ids, dy, 3, 0.7, Values(12)), numeric_gradient(loss, table), 1e-7, "dtable");
}

TEST(Embedding, ForwardAndBackwardAreTheLoops) {
  const float scale = 1.7F;
  for (const Shape& shape : kShapes) {
    const Tensor ids = random_integers({shape[0]}, 1, -1, 11);
    const auto cols = static_cast<std::size_t>(shape[1]);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor table = random_tensor({11, shape[1]}, 2, 1, dtype);
      const Values expected = embedding64(to_f64(ids), to_f64(table), cols, static_cast<double>(scale));
      expect_close(ops::embedding(cpu(), ids, table, scale, DType::f32), expected, 1e-6, text(shape, dtype));
      expect_rounded(ops::embedding(cpu(), ids, table, scale, DType::bf16), expected, text(shape, dtype) + " to bf16");
      const Tensor dy = random_tensor(shape, 3, 1, dtype);
      const Tensor dtable = random_tensor({11, shape[1]}, 4);
      const Values before = to_f64(dtable);
      ops::embedding_backward(cpu(), ids, dy, scale, dtable);
      expect_close(dtable, backward64(to_f64(ids), to_f64(dy), cols, static_cast<double>(scale), before), 1e-5,
                   text(shape, dtype) + " dtable");
    }
  }
}

TEST(Embedding, DoesNotDependOnThreads) {
  const Tensor ids = random_integers({100000}, 1, -1, 50);
  const Tensor table = random_tensor({50, 9}, 2);
  const Tensor wide_ids = random_integers({1000}, 1, -1, 50);
  const Tensor wide = random_tensor({1000, 333}, 3);
  const auto run = [&](int threads) {
    return with_threads(threads, [&] {
      const Tensor y = ops::embedding(cpu(), ids, table, 1.5F, DType::f32);
      const Tensor narrow_gradient = Tensor::zeros(cpu(), {50, 9});
      ops::embedding_backward(cpu(), ids, y, 1.5F, narrow_gradient);
      const Tensor gradient = Tensor::zeros(cpu(), {50, 333});
      ops::embedding_backward(cpu(), wide_ids, wide, 1.1F, gradient);
      return std::vector<Tensor>{y, narrow_gradient, gradient};
    });
  };
  const auto one = run(1);
  for (const int threads : {2, 3}) {
    const auto many = run(threads);
    for (std::size_t i = 0; i < one.size(); ++i) expect_same_bits(one[i], many[i], "result " + std::to_string(i));
  }
}

TEST(Embedding, RefusesIdsOutsideOfTheTable) {
  const Tensor table = Tensor::zeros(cpu(), {4, 3});
  for (const int wrong : {4, -2}) {
    const Tensor ids = tensor_of({2}, std::vector<int>{0, wrong});
    EXPECT_THROW((void)ops::embedding(cpu(), ids, table, 1, DType::f32), Error);
    EXPECT_THROW(ops::embedding_backward(cpu(), ids, Tensor::zeros(cpu(), {2, 3}), 1, table), Error);
  }
  try {
    (void)ops::embedding(cpu(), tensor_of({2}, std::vector<int>{0, 9}), table, 1, DType::f32);
    FAIL() << "took an id beyond the vocabulary";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "token id 1 is 9, outside of [-1, 4)");
  }
  EXPECT_THROW(ops::embedding_backward(cpu(), tensor_of({2}, std::vector<int>{0, 1}), Tensor::zeros(cpu(), {3, 3}), 1, table), Error);
}

}  // namespace
}  // namespace yard
