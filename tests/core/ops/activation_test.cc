#include "core/ops/activation.h"

#include "tests/core/ops/ops_support.h"

namespace yard {
namespace {

using namespace test;
using ops::Activation;
using Values = std::vector<double>;

constexpr Activation kAll[] = {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::relu};
constexpr double kPi = 3.14159265358979323846;

/// (1 + tanh(u)) / 2 without losing digits where u is far below zero.
double half_one_plus_tanh(double u) { return 1 / (1 + std::exp(-2 * u)); }

double act64(Activation activation, double z) {
  switch (activation) {
    case Activation::silu:
      return z / (1 + std::exp(-z));
    case Activation::gelu_tanh:
      return z * half_one_plus_tanh(std::sqrt(2 / kPi) * (z + 0.044715 * z * z * z));
    case Activation::gelu:
      return 0.5 * z * std::erfc(-z / std::sqrt(2.0));
    default:
      return std::max(z, 0.0);
  }
}

double slope64(Activation activation, double z) {
  switch (activation) {
    case Activation::silu: {
      const double s = 1 / (1 + std::exp(-z));
      return s + z * s * (1 - s);
    }
    case Activation::gelu_tanh: {
      const double u = std::sqrt(2 / kPi) * (z + 0.044715 * z * z * z);
      const double t = std::tanh(u);
      return half_one_plus_tanh(u) + 0.5 * z * (1 - t * t) * std::sqrt(2 / kPi) * (1 + 3 * 0.044715 * z * z);
    }
    case Activation::gelu:
      return 0.5 * std::erfc(-z / std::sqrt(2.0)) + z * std::exp(-z * z / 2) / std::sqrt(2 * kPi);
    default:
      return z > 0 ? 1 : 0;
  }
}

/// Rows of width F; weight is one factor a row, or empty.
struct Case {
  Activation activation;
  bool gated;
  std::size_t rows, width;
  double factor(const Values& weight, std::size_t row) const { return weight.empty() ? 1 : weight[row]; }
};

Values activate64(const Case& is, const Values& z, const Values& weight) {
  Values h(is.rows * is.width);
  for (std::size_t r = 0; r < is.rows; ++r) {
    for (std::size_t c = 0; c < is.width; ++c) {
      const std::size_t gate = r * is.width * (is.gated ? 2 : 1) + c;
      h[r * is.width + c] = is.factor(weight, r) * act64(is.activation, z[gate]) * (is.gated ? z[gate + is.width] : 1);
    }
  }
  return h;
}

struct Gradients {
  Values dz, dweight;
};
Gradients backward64(const Case& is, const Values& dh, const Values& z, const Values& weight) {
  Gradients result{Values(z.size()), Values(is.rows)};
  for (std::size_t r = 0; r < is.rows; ++r) {
    for (std::size_t c = 0; c < is.width; ++c) {
      const std::size_t gate = r * is.width * (is.gated ? 2 : 1) + c;
      const double up = is.gated ? z[gate + is.width] : 1;
      const double d = dh[r * is.width + c];
      const double value = act64(is.activation, z[gate]);
      result.dz[gate] = d * is.factor(weight, r) * slope64(is.activation, z[gate]) * up;
      if (is.gated) result.dz[gate + is.width] = d * is.factor(weight, r) * value;
      result.dweight[r] += d * value * up;
    }
  }
  return result;
}

TEST(Activation, TheLoopsGradientIsTheDerivative) {
  for (const Activation activation : kAll) {
    for (const bool gated : {true, false}) {
      const Case is{activation, gated, 3, 4};
      const Values z = to_f64(random_tensor({3, gated ? 8 : 4}, 1, 2));
      const Values weight = to_f64(random_tensor({3}, 2));
      const Values dh = to_f64(random_tensor({3, 4}, 3));
      const Gradients expected = backward64(is, dh, z, weight);
      const auto of_z = [&](const Values& v) { return inner(dh, activate64(is, v, weight)); };
      const auto of_weight = [&](const Values& v) { return inner(dh, activate64(is, z, v)); };
      expect_close(expected.dz, numeric_gradient(of_z, z), 1e-7, "dz of activation " + std::to_string(static_cast<int>(activation)));
      expect_close(expected.dweight, numeric_gradient(of_weight, weight), 1e-7, "dweight");
    }
  }
}

TEST(Activation, ForwardAndBackwardAreTheLoops) {
  for (const Activation activation : kAll) {
    for (const bool gated : {true, false}) {
      for (const Shape& shape : kShapes) {
        for (const DType dtype : {DType::f32, DType::bf16}) {
          for (const bool weighted : {true, false}) {
            const Case is{activation, gated, static_cast<std::size_t>(shape[0]), static_cast<std::size_t>(shape[1])};
            const Tensor z = random_tensor({shape[0], shape[1] * (gated ? 2 : 1)}, 1, 3, dtype);
            const Tensor weight = weighted ? random_tensor({shape[0]}, 2) : Tensor();
            const Values w = weighted ? to_f64(weight) : Values();
            const Tensor dh = random_tensor(shape, 3, 1, dtype);
            const std::string what =
                "activation " + std::to_string(static_cast<int>(activation)) + (gated ? " gated " : " ") + text(shape, dtype);
            const Tensor h = ops::activate(cpu(), z, weight, activation, gated);
            const auto [dz, dweight] = ops::activate_backward(cpu(), dh, z.clone(cpu()), weight, activation, gated);
            const Gradients expected = backward64(is, to_f64(dh), to_f64(z), w);
            if (dtype == DType::f32) {
              expect_close(h, activate64(is, to_f64(z), w), 1e-5, what);
              expect_close(dz, expected.dz, 1e-5, what + " dz");
            } else {
              expect_rounded(h, activate64(is, to_f64(z), w), what);
              expect_rounded(dz, expected.dz, what + " dz");
            }
            ASSERT_EQ(dweight.defined(), weighted) << what;
            if (weighted) expect_close(dweight, expected.dweight, 1e-5, what + " dweight");
          }
        }
      }
    }
  }
}

TEST(Activation, FarTailsAreNothingOrTheValue) {
  const std::vector<float> far = {-1e6F, -200, -90, -20, 20, 90, 200, 1e6F};
  for (const Activation activation : kAll) {
    const Case is{activation, false, 1, 8};
    const Tensor z = tensor_of({1, 8}, far);
    const Tensor h = ops::activate(cpu(), z, {}, activation, false);
    for (std::size_t i = 0; i < 8; ++i) EXPECT_NEAR(h.values<float>()[i], std::max(far[i], 0.0F), 5e-8) << "at " << far[i];
    const Tensor slope =
        ops::activate_backward(cpu(), tensor_of({1, 8}, std::vector<float>(8, 1)), z.clone(cpu()), {}, activation, false).dz;
    expect_close(slope, backward64(is, Values(8, 1), to_f64(z), {}).dz, 1e-6, "slope");
  }
}

TEST(Activation, DependsNeitherOnThreadsNorOnOtherRows) {
  const Tensor z = random_tensor({100000, 14}, 1);
  const Tensor dh = random_tensor({100000, 7}, 2);
  const Tensor weight = random_tensor({100000}, 3);
  const auto run = [&](int threads, Index first, Index count) {
    return with_threads(threads, [&] {
      const Tensor rows = z.row_range(first, count);
      const Tensor factors = weight.row_range(first, count);
      const auto gradient = ops::activate_backward(cpu(), dh.row_range(first, count), rows.clone(cpu()), factors, Activation::silu, true);
      return std::vector<Tensor>{ops::activate(cpu(), rows, factors, Activation::silu, true), gradient.dz, gradient.dweight};
    });
  };
  const auto one = run(1, 0, 100000);
  const auto two = run(2, 0, 100000);
  const auto few = run(1, 33333, 5);
  for (std::size_t i = 0; i < one.size(); ++i) {
    expect_same_bits(one[i], two[i], "threads, result " + std::to_string(i));
    expect_same_bits(one[i].row_range(33333, 5), few[i], "five rows alone, result " + std::to_string(i));
  }
}

TEST(Activation, RefusesWhatDoesNotFit) {
  EXPECT_THROW((void)ops::activate(cpu(), Tensor::zeros(cpu(), {2, 3}), {}, Activation::silu, true), Error);
  EXPECT_THROW((void)ops::activate(cpu(), Tensor::zeros(cpu(), {2, 4}), Tensor::zeros(cpu(), {3}), Activation::silu, true), Error);
  EXPECT_THROW((void)ops::activate_backward(cpu(), Tensor::zeros(cpu(), {2, 4}), Tensor::zeros(cpu(), {2, 4}), {}, Activation::silu, true),
               Error);
}

}  // namespace
}  // namespace yard
