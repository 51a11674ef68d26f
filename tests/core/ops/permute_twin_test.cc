#include "core/ops/permute.h"

#include "tests/core/ops/ops_support.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;

TEST(PermuteTwin, EntriesGroupedByKey) {
  struct Case {
    Index entries, keys;
  };
  // None, one pass and several, one chunk and several, keys that nobody has.
  for (const auto& [entries, keys] : std::vector<Case>{{0, 5}, {1, 1}, {40, 8}, {1024, 255}, {2500, 256}, {3000, 7}, {1500, 70000}}) {
    const Tensor key = random_integers({entries}, 1, -1, static_cast<int>(keys));
    expect_twins(std::to_string(entries) + " entries, " + std::to_string(keys) + " keys", [&](Side& side) {
      const ops::Grouped grouped = ops::group_by(side.stream, side.in(key), keys);
      side.out("order", grouped.order);
      side.out("offsets", grouped.offsets);
    });
  }
}

TEST(PermuteTwin, EntriesWithoutAKeyOrAllOfOne) {
  for (const int key : {-1, 0, 299}) {
    expect_twins("all " + std::to_string(key), [&](Side& side) {
      const ops::Grouped grouped = ops::group_by(side.stream, side.in(tensor_of({1100}, std::vector<int>(1100, key))), 300);
      side.out("order", grouped.order);
      side.out("offsets", grouped.offsets);
    });
  }
}

TEST(PermuteTwin, RowsGathered) {
  for (const Shape& shape : twin_shapes()) {
    if (shape[0] == 0) continue;
    for (const Index count : {0, 1, 70}) {
      const Tensor index = random_integers({count}, 2, 0, static_cast<int>(shape[0]));
      for (const DType dtype : {DType::f32, DType::bf16}) {
        expect_twins(text(shape, dtype), [&](Side& side) {
          side.out("rows", ops::gather_rows(side.stream, side.in(random_tensor(shape, 1, 1, dtype)), side.in(index)));
        });
      }
      expect_twins("numbers", [&](Side& side) {
        side.out("values", ops::gather_rows(side.stream, side.in(random_integers({shape[0]}, 1, -100, 100)), side.in(index)));
      });
    }
  }
}

TEST(PermuteTwin, RowsCombinedInTheOrderOfSlots) {
  constexpr Index kTokens = 9;
  const Tensor token = random_integers({60}, 1, -1, kTokens - 1);  // the last token has no slot
  const ops::Grouped by_token = ops::group_by(cpu(), token, kTokens);
  const Tensor position = random_integers({60}, 2, -1, 40);
  for (const Index cols : {1, 8, 33, 1030}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor rows = random_tensor({40, cols}, 3, 1, dtype);
      expect_twins(std::to_string(cols) + " columns", [&](Side& side) {
        const ops::Grouped there{side.in(by_token.order), side.in(by_token.offsets)};
        ops::combine_rows(side.stream, side.in(rows), side.in(position), there, side.changed("y", random_tensor({kTokens, cols}, 4)));
      });
    }
  }
}

TEST(PermuteTwin, ValuesScattered) {
  const Tensor index = tensor_of({5}, std::vector<int>{3, 0, 7, 2, 9});
  expect_twins("five values", [&](Side& side) {
    ops::scatter_values(side.stream, side.in(random_tensor({5}, 1)), side.in(index), side.changed("to", random_tensor({10}, 2)));
  });
}

}  // namespace
}  // namespace yard
