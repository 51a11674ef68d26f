#include "launch/model_fits.h"

#include <gmock/gmock.h>

#include "tests/launch/program.h"

namespace yard {
namespace {

using namespace test;

/// Each needs terabytes, and is rejected before they are allocated.
TEST(ModelFits, AModelBeyondTheMemoryIsRejected) {
  const Program program;
  for (const char* settings :
       {"--set model.width=65536 --set model.layers=1000", "--set model.hidden=2000000000",
        "--set model.vocabulary=2000000000 --set model.width=4096", "--set model.experts=4096 --set model.hidden=100000000"}) {
    for (const int ranks : {0, 2}) {
      const auto result = program.run("train --config c --run-dir r --set mesh.expert=1 " + std::string(settings), ranks);
      expect_sentence(result, 2, {"the model needs", "GiB of memory available", ranks == 2 ? "2 ranks" : "1 rank"});
    }
  }
}

TEST(ModelFits, SoManyLayersOrExpertsAreRejected) {
  const Program program;
  expect_sentence(program.run("train --config c --run-dir r --set model.layers=1000000000"), 2, {"model.layers is 1000000000"});
  expect_sentence(program.run("train --config c --run-dir r --set model.experts=2000000000 --set model.layers=100"), 2,
                  {"model.layers x model.experts is 100 x 2000000000", "at most 10000000"});
}

}  // namespace
}  // namespace yard
