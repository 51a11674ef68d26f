#include "core/ops/matmul.h"

#include <numeric>

#include "tests/core/ops/ops_support.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;

struct Case {
  std::string name;
  Index in, out;
  std::vector<Index> rows;
};

/// Grouped as one, spread over streams because of the types or of where matrices lie, and single products.
const std::vector<Case> kCases = {{"one row", 24, 40, {1}},
                                  {"dense", 96, 72, {50}},
                                  {"odd sizes", 13, 7, {5, 29, 2}},
                                  {"even sizes", 6, 10, {5, 29, 2}},
                                  {"uneven groups", 48, 56, {0, 64, 1, 0, 17, 30, 31, 0}},
                                  {"more groups than streams", 32, 16, {1, 2, 0, 3, 8, 0, 0, 1, 5, 0, 4}},
                                  {"no rows", 32, 16, {0, 0, 0}}};

void check(DType dtype) {
  for (const Case& c : kCases) {
    const Index total = std::accumulate(c.rows.begin(), c.rows.end(), Index{0});
    const auto groups = static_cast<Index>(c.rows.size());
    const Tensor x = random_tensor({total, c.in}, 1, 1, dtype);
    const Tensor w = random_tensor({groups * c.out, c.in}, 2, 1, dtype);
    const Tensor dy = random_tensor({total, c.out}, 3, 1, dtype);
    const Tensor dw = random_tensor({groups * c.out, c.in}, 4);
    expect_twins(c.name, [&](Side& side) {
      const ops::Weights weights(side.in(w), groups);
      for (const DType out : {DType::f32, DType::bf16}) {
        const std::string as = " in " + std::string(name_of(out));
        side.out("y" + as, ops::matmul(side.stream, side.in(x), weights, c.rows, out));
        side.out("dx" + as, ops::matmul_backward_input(side.stream, side.in(dy), weights, c.rows, out));
        side.out("y by row" + as, ops::matmul_by_row(side.stream, side.in(x), side.in(w), c.rows, out));
      }
      ops::matmul_backward_weight(side.stream, side.in(dy), side.in(x), c.rows, side.changed("dw", dw));
    });
  }
}

TEST(MatmulTwin, InF32) { check(DType::f32); }
TEST(MatmulTwin, InBf16) { check(DType::bf16); }

TEST(MatmulTwin, SeesNewValuesAtOnce) {
  const Tensor x = random_tensor({3, 8}, 1);
  Side side(gpu(), 0);
  const Tensor value = side.changed("weights", random_tensor({4, 8}, 2));
  ops::Weights weights(value, 1);
  const Tensor other = random_tensor({4, 8}, 3);
  gpu().copy(value.raw(), other.raw(), other.bytes());
  weights.refresh();
  const Tensor y = ops::matmul(gpu(), side.in(x), weights);
  expect_close(y.to(gpu(), Device{}), to_f64(ops::matmul(cpu(), x, ops::Weights(other, 1))), 1e-5, "refreshed");
}

TEST(MatmulTwin, PollsBetweenProducts) {
  const Tensor x = random_tensor({12, 8}, 1, 1, DType::bf16).to(gpu(), gpu().device());
  const ops::Weights weights(random_tensor({12, 8}, 2, 1, DType::bf16).to(gpu(), gpu().device()), 3);
  int polls = 0;
  const std::vector<Index> rows{4, 4, 4};
  (void)ops::matmul(gpu(), x, weights, rows, DType::f32, [&] { ++polls; });
  EXPECT_EQ(polls, 3);
}

TEST(MatmulTwin, SaysWhetherRowsDependOnTheirNeighbours) {
  // Whatever the answer is on this GPU, it is the same twice.
  EXPECT_EQ(ops::rows_are_invariant(gpu(), DType::f32), ops::rows_are_invariant(gpu(), DType::f32));
}

TEST(MatmulTwin, RefusesTensorsOfTheHost) {
  const ops::Weights weights(random_tensor({4, 8}, 2), 1);
  EXPECT_THROW((void)ops::matmul(gpu(), random_tensor({3, 8}, 1), weights), Error);
}

}  // namespace
}  // namespace yard
