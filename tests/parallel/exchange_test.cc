#include "comm/local.h"
#include "parallel/exchange/direct.h"
#include "tests/parallel/exchange_contract.h"

namespace yard {
namespace {

std::unique_ptr<Exchange> direct(Communicator& group, Index experts) { return std::make_unique<DirectExchange>(group, experts, 0); }

class LocalExchange : public testing::TestWithParam<int> {};

TEST_P(LocalExchange, KeepsTheContract) {
  run_local_world(GetParam(), [](Communicator& world) { test::ExchangeContract(world, direct).check_all(); });
}

INSTANTIATE_TEST_SUITE_P(Ranks, LocalExchange, testing::Values(1, 2, 4));

TEST(DirectExchange, RefusesExpertsThatTheRanksDoNotDivide) {
  run_local_world(2, [](Communicator& world) { EXPECT_THROW(direct(world, 3), InputError); });
}

}  // namespace
}  // namespace yard
