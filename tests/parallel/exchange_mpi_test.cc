#include "tests/parallel/exchange_contract.h"
#include "tests/support/mpi_world.h"

namespace yard {
namespace {

TEST(MpiExchange, KeepsTheContract) {
  test::ExchangeContract(test::world(), [](Communicator& group, Index experts, Index chunks) {
    return find_exchange("direct").make(group, experts, chunks, 0);
  }).check_all();
}

}  // namespace
}  // namespace yard
