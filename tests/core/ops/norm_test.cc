#include "core/ops/norm.h"

#include "tests/core/ops/ops_support.h"

namespace yard {
namespace {

using namespace test;
using Values = std::vector<double>;

constexpr float kEpsilon = 1e-5F;

/// y = x / sqrt(mean(x^2) + epsilon) * weight, the factor before the weight rounded by `round`.
template <class Round>
Values norm64(const Values& x, const Values& weight, Round&& round) {
  const std::size_t cols = weight.size();
  Values y(x.size());
  for (std::size_t at = 0; at < x.size(); at += cols) {
    double squares = 0;
    for (std::size_t c = 0; c < cols; ++c) squares += x[at + c] * x[at + c];
    const double rstd = 1 / std::sqrt(squares / static_cast<double>(cols) + static_cast<double>(kEpsilon));
    for (std::size_t c = 0; c < cols; ++c) y[at + c] = round(x[at + c] * rstd) * weight[c];
  }
  return y;
}
double exactly(double value) { return value; }

struct Gradients {
  Values dx, dweight;
};
Gradients backward64(const Values& dy, const Values& x, const Values& weight) {
  const std::size_t cols = weight.size();
  Gradients result{Values(x.size()), Values(cols)};
  for (std::size_t at = 0; at < x.size(); at += cols) {
    double squares = 0;
    double product = 0;
    for (std::size_t c = 0; c < cols; ++c) {
      squares += x[at + c] * x[at + c];
      product += dy[at + c] * weight[c] * x[at + c];
    }
    const double width = static_cast<double>(cols);
    const double rstd = 1 / std::sqrt(squares / width + static_cast<double>(kEpsilon));
    for (std::size_t c = 0; c < cols; ++c) {
      result.dx[at + c] = rstd * dy[at + c] * weight[c] - rstd * rstd * rstd * x[at + c] * product / width;
      result.dweight[c] += dy[at + c] * x[at + c] * rstd;
    }
  }
  return result;
}

TEST(RmsNorm, TheLoopsGradientIsTheDerivative) {
  const Values x = to_f64(random_tensor({3, 5}, 1));
  const Values weight = to_f64(random_tensor({5}, 2));
  const Values dy = to_f64(random_tensor({3, 5}, 3));
  const Gradients expected = backward64(dy, x, weight);
  expect_close(expected.dx, numeric_gradient([&](const Values& v) { return inner(dy, norm64(v, weight, exactly)); }, x), 1e-7, "dx");
  expect_close(expected.dweight, numeric_gradient([&](const Values& v) { return inner(dy, norm64(x, v, exactly)); }, weight), 1e-7,
               "dweight");
}

TEST(RmsNorm, ForwardIsTheLoop) {
  for (const Shape& shape : kShapes) {
    const Tensor weight = random_tensor({shape[1]}, 2);
    for (const DType in : {DType::f32, DType::bf16}) {
      const Tensor x = random_tensor(shape, 1, 3, in);
      const auto [y, rstd] = ops::rms_norm(cpu(), x, weight, kEpsilon, DType::f32);
      EXPECT_EQ(rstd.elements(), shape[0]);
      expect_close(y, norm64(to_f64(x), to_f64(weight), exactly), 1e-5, text(shape, in));
      const auto rounding = [](double value) { return static_cast<double>(static_cast<float>(BFloat16(static_cast<float>(value)))); };
      expect_rounded(ops::rms_norm(cpu(), x, weight, kEpsilon, DType::bf16).y, norm64(to_f64(x), to_f64(weight), rounding),
                     text(shape, in) + " to bf16");
    }
  }
}

TEST(RmsNorm, BackwardIsTheLoop) {
  for (const Shape& shape : kShapes) {
    if (shape[1] == 1) continue;  // the norm of one value is its sign: the gradient is nothing but what rounding leaves
    const Tensor weight = random_tensor({shape[1]}, 2);
    for (const DType in : {DType::f32, DType::bf16}) {
      for (const DType gradient : {DType::f32, DType::bf16}) {
        const Tensor x = random_tensor(shape, 1, 3, in);
        const Tensor dy = random_tensor(shape, 3, 1, gradient);
        const Tensor residual = random_tensor(shape, 4, 1, gradient);
        const Tensor rstd = ops::rms_norm(cpu(), x, weight, kEpsilon, in).rstd;
        Gradients expected = backward64(to_f64(dy), to_f64(x), to_f64(weight));
        const Tensor dweight = random_tensor({shape[1]}, 5);
        const Values before = to_f64(dweight);
        for (std::size_t c = 0; c < before.size(); ++c) expected.dweight[c] += before[c];
        const auto expect = [&](const Tensor& dx, const std::string& what) {
          if (in == DType::f32) expect_close(dx, expected.dx, 1e-5, what + text(shape, gradient));
          if (in == DType::bf16) expect_rounded(dx, expected.dx, what + text(shape, gradient));
        };
        expect(ops::rms_norm_backward(cpu(), dy, x, weight, rstd, dweight), "dx ");
        expect_close(dweight, expected.dweight, 1e-5, "dweight " + text(shape, in));
        const Values other = to_f64(residual);
        for (std::size_t i = 0; i < other.size(); ++i) expected.dx[i] += other[i];
        expect(ops::rms_norm_backward(cpu(), dy, x, weight, rstd, dweight, residual), "dx with residual ");
      }
    }
  }
}

TEST(RmsNorm, DependsNeitherOnThreadsNorOnOtherRows) {
  const Tensor x = random_tensor({100000, 9}, 1, 1, DType::bf16);
  const Tensor dy = random_tensor({100000, 9}, 2);
  const Tensor weight = random_tensor({9}, 3);
  const auto run = [&](int threads) {
    return with_threads(threads, [&] {
      const ops::RmsNormOut out = ops::rms_norm(cpu(), x, weight, kEpsilon, DType::f32);
      const Tensor dweight = Tensor::zeros(cpu(), {9});
      const Tensor dx = ops::rms_norm_backward(cpu(), dy, x, weight, out.rstd, dweight);
      return std::vector<Tensor>{out.y, out.rstd, dx, dweight};
    });
  };
  const auto one = run(1);
  for (const int threads : {2, 3}) {
    const auto many = run(threads);
    for (std::size_t i = 0; i < one.size(); ++i) expect_same_bits(one[i], many[i], "result " + std::to_string(i));
  }
  const Tensor rows = x.row_range(77777, 3);
  expect_same_bits(ops::rms_norm(cpu(), rows, weight, kEpsilon, DType::f32).y, one[0].row_range(77777, 3), "three rows alone");
  const Tensor unused = Tensor::zeros(cpu(), {9});
  expect_same_bits(ops::rms_norm_backward(cpu(), dy.row_range(77777, 3), rows, weight, one[1].row_range(77777, 3), unused),
                   one[2].row_range(77777, 3), "three gradients alone");
}

TEST(RmsNorm, RefusesWhatDoesNotFit) {
  const Tensor x = Tensor::zeros(cpu(), {4, 3});
  EXPECT_THROW((void)ops::rms_norm(cpu(), x, Tensor::zeros(cpu(), {4}), kEpsilon, DType::f32), Error);
  EXPECT_THROW((void)ops::rms_norm(cpu(), x, Tensor::zeros(cpu(), {3}, DType::bf16), kEpsilon, DType::f32), Error);
  const Tensor weight = Tensor::zeros(cpu(), {3});
  EXPECT_THROW((void)ops::rms_norm_backward(cpu(), Tensor::zeros(cpu(), {4, 2}), x, weight, Tensor::zeros(cpu(), {4}), weight), Error);
  EXPECT_THROW((void)ops::rms_norm_backward(cpu(), x, x, weight, Tensor::zeros(cpu(), {3}), weight), Error);
}

}  // namespace
}  // namespace yard
