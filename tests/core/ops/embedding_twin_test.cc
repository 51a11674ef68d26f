#include "core/ops/embedding.h"

#include "tests/core/ops/ops_support.h"
#include "tests/support/twins.h"

namespace yard {
namespace {

using namespace test;

TEST(EmbeddingTwin, ForwardAndBackward) {
  for (const Index vocabulary : {3, 300}) {  // tokens that meet in a row, and rows without a token
    for (const Index cols : {1, 8, 33, 600}) {
      const Tensor ids = random_integers({70}, 1, -1, static_cast<int>(vocabulary));
      for (const DType in : {DType::f32, DType::bf16}) {
        const Tensor table = random_tensor({vocabulary, cols}, 2, 1, in);
        for (const DType out : {DType::f32, DType::bf16}) {
          expect_twins(std::to_string(vocabulary) + " x " + std::to_string(cols), [&](Side& side) {
            const Tensor there = side.in(ids);
            side.out("y", ops::embedding(side.stream, there, side.in(table), 1.5F, out));
            ops::embedding_backward(side.stream, there, side.in(random_tensor({70, cols}, 3, 1, out)), 1.5F,
                                    side.changed("dtable", random_tensor({vocabulary, cols}, 4)));
          });
        }
      }
    }
  }
}

TEST(EmbeddingTwin, NoTokens) {
  expect_twins("none", [](Side& side) {
    const Tensor ids = side.in(Tensor::zeros(cpu(), {0}, DType::i32));
    side.out("y", ops::embedding(side.stream, ids, side.in(random_tensor({4, 8}, 1)), 1, DType::f32));
    ops::embedding_backward(side.stream, ids, side.in(Tensor::zeros(cpu(), {0, 8})), 1, side.changed("dtable", random_tensor({4, 8}, 2)));
  });
}

}  // namespace
}  // namespace yard
