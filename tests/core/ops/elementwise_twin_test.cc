#include "core/ops/elementwise.h"

#include <limits>

#include "tests/core/ops/ops_support.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;

constexpr DType kFloats[] = {DType::f32, DType::bf16};

TEST(ElementwiseTwin, AddAccumulateScaled) {
  for (const Shape& shape : twin_shapes()) {
    for (const DType a_type : kFloats) {
      for (const DType b_type : kFloats) {
        const Tensor a = random_tensor(shape, 1, 2, a_type);
        const Tensor b = random_tensor(shape, 2, 1, b_type);
        for (const DType out : kFloats) {
          expect_twins(text(shape, a_type) + " and " + text(shape, b_type), [&](Side& side) {
            side.out("sum", ops::add(side.stream, side.in(a), side.in(b), out));
            side.out("scaled", ops::scaled(side.stream, side.in(a), 0.3F, out));
            ops::accumulate(side.stream, side.in(b), side.changed("accumulated", a));
          });
        }
      }
    }
  }
}

TEST(ElementwiseTwin, RowsScaledAndMultiplied) {
  for (const Shape& shape : twin_shapes()) {
    const Tensor gate = random_tensor({shape[0]}, 3);
    for (const DType a_type : kFloats) {
      for (const DType b_type : kFloats) {
        const Tensor a = random_tensor(shape, 1, 2, a_type);
        const Tensor b = random_tensor(shape, 2, 1, b_type);
        expect_twins(text(shape, a_type) + " and " + text(shape, b_type), [&](Side& side) {
          side.out("scaled", ops::scale_rows(side.stream, side.in(a), side.in(gate), b_type));
          side.out("dots", ops::row_dot(side.stream, side.in(a), side.in(b)));
        });
      }
    }
  }
}

TEST(ElementwiseTwin, Columns) {
  for (const DType type : kFloats) {
    for (const Index rows : {0, 1, 37}) {
      const Tensor x = random_tensor({rows, 300}, 1, 1, type);
      const Tensor into = random_tensor({rows, 333}, 2, 1, type);
      expect_twins(text(x.shape(), type), [&](Side& side) {
        side.out("columns", ops::columns(side.stream, side.in(x), 17, 131));
        ops::set_columns(side.stream, side.in(x), side.changed("into", into), 21);
      });
    }
  }
}

TEST(ElementwiseTwin, CastsCopiesAndFill) {
  constexpr DType kAll[] = {DType::f32, DType::bf16, DType::f64};
  for (const Shape& shape : twin_shapes()) {
    for (const DType from : kAll) {
      const Tensor x = ops::cast(cpu(), random_tensor(shape, 1), from);
      for (const DType to : kAll) {
        expect_twins(
            text(shape, from) + " to " + std::string(name_of(to)),
            [&](Side& side) {
              side.out("cast", ops::cast(side.stream, side.in(x), to));
              ops::copy_into(side.stream, side.in(x), side.changed("copy", Tensor::zeros(cpu(), {x.elements()}, to)));
              ops::fill(side.stream, side.changed("filled", ops::cast(cpu(), x, to).clone(cpu())), -1.5F);
            },
            1e-7);
      }
    }
  }
  expect_twins("whole numbers", [](Side& side) {
    ops::copy_into(side.stream, side.in(random_integers({5}, 1, -9, 9)), side.changed("copy", Tensor::zeros(cpu(), {5}, DType::i32)));
  });
}

TEST(ElementwiseTwin, SpecialValuesSurviveRounding) {
  const std::vector<float> special = {std::numeric_limits<float>::infinity(), -3.4028235e38F, 1e-45F, -0.0F, 1.00390625F, 1.01171875F,
                                      std::bit_cast<float>(0x7f7fffffU),      65504};
  const Tensor x = tensor_of({8}, special);
  Side side(gpu(), 0);
  side.out("cast", ops::cast(gpu(), side.in(x), DType::bf16));
  expect_same_bits(side.finish("special values")[0].values, ops::cast(cpu(), x, DType::bf16), "special values");
  Side other(gpu(), 0);
  other.out("cast", ops::cast(gpu(), other.in(tensor_of({1}, std::vector<float>{std::bit_cast<float>(0x7f800001U)})), DType::bf16));
  EXPECT_TRUE(std::isnan(to_f64(other.finish("NaN")[0].values)[0]));
}

TEST(ElementwiseTwin, Sums) {
  for (const Index count : {0, 1, 31, 4096, 16385, 70001}) {
    const Tensor x = random_tensor({count}, 1, 100);
    expect_twins(
        std::to_string(count) + " values",
        [&](Side& side) {
          ops::add_sum(side.stream, side.in(x), -0.25, side.changed("sum", tensor_of({1}, std::vector<double>{100})));
          ops::add_squared_norm(side.stream, side.in(x), side.changed("squared norm", tensor_of({1}, std::vector<double>{100})));
        },
        1e-11);
  }
  expect_twins(
      "beyond what f32 holds",
      [](Side& side) {
        ops::add_squared_norm(side.stream, side.in(tensor_of({3}, std::vector<float>{1e30F, 1, -1e30F})),
                              side.changed("squared norm", tensor_of({1}, std::vector<double>{0})));
      },
      1e-11);
}

TEST(ElementwiseTwin, AllFiniteFindsOneValueAnywhere) {
  for (const DType dtype : kFloats) {
    const Tensor x = random_tensor({3000}, 1, 1e30F, dtype);
    for (const Index place : {-1, 0, 1234, 2999}) {
      const Tensor values = x.clone(cpu());
      with_float_type(dtype, [&](auto type) {
        if (place >= 0) values.values<decltype(type)>()[static_cast<std::size_t>(place)] = place == 0 ? NAN : -INFINITY;
      });
      expect_twins(std::to_string(place), [&](Side& side) { side.out("finite", ops::all_finite(side.stream, side.in(values))); });
    }
  }
}

TEST(ElementwiseTwin, DropoutDrawsTheSameNumbers) {
  for (const Shape& shape : twin_shapes()) {
    for (const DType out : kFloats) {
      const Tensor x = random_tensor(shape, 1, 1, out);
      const Tensor keys(cpu(), {shape[0]}, DType::i64);
      for (Index i = 0; i < shape[0]; ++i) keys.data<std::int64_t>()[i] = 1000003 * i;
      expect_twins(text(shape, out),
                   [&](Side& side) { side.out("dropped", ops::dropout(side.stream, side.in(x), 0.3F, 7, side.in(keys), out)); });
    }
  }
}

}  // namespace
}  // namespace yard
