#include "core/ops/cross_entropy.h"

#include "tests/core/ops/ops_support.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;

TEST(CrossEntropyTwin, RowsOfLogits) {
  for (const Shape& shape : twin_shapes()) {
    const Tensor targets = random_integers({shape[0]}, 2, -1, static_cast<int>(shape[1]));
    for (const bool in_place : {true, false}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        if (in_place && dtype == DType::bf16) continue;
        expect_twins(text(shape, dtype), [&](Side& side) {
          Tensor z = in_place ? side.changed("gradient", random_tensor(shape, 1, 3))
                              : random_tensor(shape, 1, 3).to(side.stream, side.stream.device());
          const Tensor nats(side.stream, {shape[0]});
          const Tensor gradient = in_place ? z : Tensor(side.stream, shape, dtype);
          ops::cross_entropy_rows(side.stream, z, side.in(targets), 0.7F, 0.3F, nats, gradient);
          side.out("nats", nats);
          side.out("gradient", gradient);
        });
      }
    }
  }
}

TEST(CrossEntropyTwin, OutputLayerAndLoss) {
  constexpr Index kRows = 150;  // two blocks
  const Tensor targets = random_integers({kRows}, 2, -1, 500);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor x = random_tensor({kRows, 24}, 1, 1, dtype);
    const Tensor w = random_tensor({500, 24}, 3, 0.3F, dtype);
    for (const bool gradient : {true, false}) {
      // Gradients of bf16 products are sums of rounded values: a step of rounding apart here and there.
      expect_twins(
          std::string(name_of(dtype)),
          [&](Side& side) {
            const ops::Weights weights(side.in(w), 1);
            const Tensor dweight = gradient ? side.changed("dweight", random_tensor({500, 24}, 4)) : Tensor();
            const auto out = ops::linear_cross_entropy(side.stream, side.in(x), weights, side.in(targets), 1.5F, 0.01F, dweight);
            side.out("nats", out.nats);
            side.out("dx", out.dx);
          },
          dtype == DType::f32 ? 1e-5 : 1e-3);
    }
  }
}

}  // namespace
}  // namespace yard
