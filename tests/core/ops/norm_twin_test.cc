#include "core/ops/norm.h"

#include "tests/core/ops/ops_support.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;

constexpr DType kFloats[] = {DType::f32, DType::bf16};

TEST(RmsNormTwin, Forward) {
  for (const Shape& shape : twin_shapes()) {
    const Tensor weight = random_tensor({shape[1]}, 2);
    for (const DType in : kFloats) {
      const Tensor x = random_tensor(shape, 1, 3, in);
      for (const DType out : kFloats) {
        expect_twins(text(shape, in) + " to " + std::string(name_of(out)), [&](Side& side) {
          const auto result = ops::rms_norm(side.stream, side.in(x), side.in(weight), 1e-5F, out);
          side.out("y", result.y);
          side.out("rstd", result.rstd);
        });
      }
    }
  }
}

TEST(RmsNormTwin, Backward) {
  for (const Shape& shape : twin_shapes()) {
    if (shape[1] == 1) continue;  // the norm of one value is its sign: the gradient is nothing but what rounding leaves
    const Tensor weight = random_tensor({shape[1]}, 2);
    for (const DType in : kFloats) {
      const Tensor x = random_tensor(shape, 1, 3, in);
      const Tensor rstd = ops::rms_norm(cpu(), x, weight, 1e-5F, in).rstd;
      for (const DType gradient : kFloats) {
        const Tensor dy = random_tensor(shape, 3, 1, gradient);
        for (const Tensor& residual : {Tensor(), random_tensor(shape, 4, 1, gradient)}) {
          expect_twins(text(shape, in) + " from " + std::string(name_of(gradient)), [&](Side& side) {
            const Tensor dweight = side.changed("dweight", random_tensor({shape[1]}, 5));
            side.out("dx", ops::rms_norm_backward(side.stream, side.in(dy), side.in(x), side.in(weight), side.in(rstd), dweight,
                                                  side.in(residual)));
          });
        }
      }
    }
  }
}

TEST(RmsNormTwin, ManyRowsAddUpToTheWeightsGradient) {
  const Tensor x = random_tensor({600, 12}, 1);
  const Tensor dy = random_tensor({600, 12}, 2, 1, DType::bf16);
  const Tensor weight = random_tensor({12}, 3);
  const Tensor rstd = ops::rms_norm(cpu(), x, weight, 1e-5F, DType::f32).rstd;
  expect_twins("600 rows", [&](Side& side) {
    const Tensor dweight = side.changed("dweight", random_tensor({12}, 5));
    side.out("dx", ops::rms_norm_backward(side.stream, side.in(dy), side.in(x), side.in(weight), side.in(rstd), dweight));
  });
}

}  // namespace
}  // namespace yard
