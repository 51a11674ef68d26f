#include "core/ops/adamw.h"

#include "tests/core/ops/ops_support.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;

TEST(AdamWTwin, ThreeSteps) {
  for (const Index count : {0, 1, 1000}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Tensor second = random_tensor({count}, 3, 0.1F);
      for (float& value : second.values<float>()) value = value * value;
      expect_twins(
          std::to_string(count) + " values",
          [&](Side& side) {
            const Tensor first = side.changed("first", random_tensor({count}, 2, 0.1F));
            const Tensor squares = side.changed("second", second);
            const Tensor master = side.changed("master", random_tensor({count}, 4));
            const Tensor value = side.changed("value", random_tensor({count}, 5, 1, dtype));
            for (const Index t : {1, 2, 3}) {
              ops::adamw(side.stream, side.in(random_tensor({count}, 10 + static_cast<std::uint64_t>(t))), first, squares, master, value,
                         {.rate = 1e-2, .decay = 0.1, .grad_scale = 0.5, .t = t});
            }
          },
          1e-6);
    }
  }
}

TEST(AdamWTwin, TheValueMayBeTheMaster) {
  expect_twins("in place", [](Side& side) {
    const Tensor master = side.changed("master", random_tensor({100}, 4));
    ops::adamw(side.stream, side.in(random_tensor({100}, 1)), side.changed("first", Tensor::zeros(cpu(), {100})),
               side.changed("second", Tensor::zeros(cpu(), {100})), master, master, {.rate = 1e-3});
  });
}

}  // namespace
}  // namespace yard
