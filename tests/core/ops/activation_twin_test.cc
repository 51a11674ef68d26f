#include "core/ops/activation.h"

#include "tests/core/ops/ops_support.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;
using ops::Activation;

void check_activation(Activation activation, bool gated) {
  for (const Shape& shape : twin_shapes()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor z = random_tensor({shape[0], shape[1] * (gated ? 2 : 1)}, 1, 3, dtype);
      const Tensor dh = random_tensor(shape, 3, 1, dtype);
      for (const Tensor& weight : {Tensor(), random_tensor({shape[0]}, 2)}) {
        expect_twins(text(shape, dtype) + (gated ? ", gated" : ""), [&](Side& side) {
          const Tensor from = side.in(z);
          const Tensor factors = side.in(weight);
          side.out("h", ops::activate(side.stream, from, factors, activation, gated));
          const Tensor turned = side.changed("dz", z);
          side.out("dweight", ops::activate_backward(side.stream, side.in(dh), turned, factors, activation, gated).dweight);
        });
      }
    }
  }
}

TEST(ActivationTwin, Silu) { check_activation(Activation::silu, false); }
TEST(ActivationTwin, GatedSilu) { check_activation(Activation::silu, true); }
TEST(ActivationTwin, GatedGeluTanh) { check_activation(Activation::gelu_tanh, true); }
TEST(ActivationTwin, GatedGelu) { check_activation(Activation::gelu, true); }
TEST(ActivationTwin, Relu) { check_activation(Activation::relu, false); }

TEST(ActivationTwin, FarTails) {
  const Tensor z = tensor_of({1, 8}, std::vector<float>{-1e6F, -200, -90, -20, 20, 90, 200, 1e6F});
  const Tensor dh = tensor_of({1, 8}, std::vector<float>(8, 1));
  for (const Activation activation : {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::relu}) {
    expect_twins("far tails of activation " + std::to_string(static_cast<int>(activation)), [&](Side& side) {
      const Tensor from = side.in(z);
      side.out("h", ops::activate(side.stream, from, {}, activation, false));
      (void)ops::activate_backward(side.stream, side.in(dh), side.changed("slope", z), {}, activation, false);
    });
  }
}

}  // namespace
}  // namespace yard
