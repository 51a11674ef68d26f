#include "comm/local.h"
#include "tests/parallel/exchange_contract.h"

namespace yard {
namespace {

std::unique_ptr<Exchange> direct(Communicator& group, Index experts, Index chunks) {
  return find_exchange("direct").make(group, experts, chunks, 0);
}

class LocalExchange : public testing::TestWithParam<int> {};

TEST_P(LocalExchange, KeepsTheContract) {
  run_local_world(GetParam(), [](Communicator& world) { test::ExchangeContract(world, direct).check_all(); });
}

INSTANTIATE_TEST_SUITE_P(Ranks, LocalExchange, testing::Values(1, 2, 4));

TEST(DirectExchange, RejectsExpertsThatTheRanksDoNotDivide) {
  run_local_world(2, [](Communicator& world) { EXPECT_THROW(direct(world, 3, 1), InputError); });
}

TEST(DirectExchange, RejectsMoreChunksThanExpertsPerRank) {
  run_local_world(2, [](Communicator& world) {
    EXPECT_THROW(direct(world, 8, 5), InputError);
    EXPECT_THROW(direct(world, 8, 0), InputError);
  });
}

/// One exchange of counts per plan, posted by plan(); one dispatch and one return per chunk and direction, each one collective whatever the
/// number of tensors; the counts are not waited for before rows have been gathered.
TEST(DirectExchange, RecordsOneCollectivePerChunkAndDirection) {
  run_local_world(2, [](Communicator& world) {
    Stream stream{Device{}};
    Profiler profiler;
    const Tokens none;
    Context context{stream, profiler, none};
    const auto exchange = find_exchange("direct").make(world, 4, 2, 7);
    Routing routing;
    routing.token = test::tensor_of({4}, std::vector<int>{0, 0, 1, 1});
    routing.expert = test::tensor_of({4}, std::vector<int>{0, 3, 1, 2});
    routing.weight = Tensor::zeros(stream, {4});
    const Tensor key = Tensor::zeros(stream, {2}, DType::i64);
    const Tensor x = Tensor::zeros(stream, {2, 3});
    const auto plan = exchange->plan(context, routing, 2);
    EXPECT_EQ(world.log().records().back().label.text(), "layer.7.counts");
    EXPECT_EQ(world.log().records().back().state(), CollectiveState::posted) << "plan does not wait";
    for (const auto direction : {Exchange::Direction::forward, Exchange::Direction::backward}) {
      const bool forward = direction == Exchange::Direction::forward;
      for (Index chunk = 0; chunk < 2; ++chunk) {
        Dispatched arrived =
            exchange->dispatch(context, direction, *plan, chunk, x, forward ? routing.weight : Tensor(), forward ? key : Tensor());
        arrived.work.wait(stream);
        exchange->return_rows(context, direction, *plan, chunk, arrived.rows, {}).wait(stream);
      }
      exchange->combine(context, *plan, Tensor::zeros(stream, {2, 3}), {});
    }
    std::vector<std::string> labels;
    for (const CollectiveRecord& record : world.log().records()) labels.push_back(record.label.text());
    const std::string layer = "layer.7.";
    EXPECT_EQ(labels, (std::vector<std::string>{layer + "counts", layer + "dispatch", layer + "combine", layer + "dispatch",
                                                layer + "combine", layer + "dispatch.backward", layer + "combine.backward",
                                                layer + "dispatch.backward", layer + "combine.backward"}));
  });
}

}  // namespace
}  // namespace yard
