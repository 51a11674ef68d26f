#include <mpi.h>

#include "comm/agree.h"
#include "tests/comm/contract.h"
#include "tests/support/mpi_world.h"

namespace {

/// The largest counts that MPI was called with since the last reset: this program's own functions stand before MPI's (its profiling
/// interface).
struct LargestCounts {
  int moved = 0, reduced = 0;
};
LargestCounts& largest() {
  static LargestCounts counts;
  return counts;
}
void moved(int count) { largest().moved = std::max(largest().moved, count); }
void reduced(int count) { largest().reduced = std::max(largest().reduced, count); }

}  // namespace

extern "C" {
int MPI_Isend(const void* values, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request* request) {
  moved(count);
  return PMPI_Isend(values, count, type, to, tag, comm, request);
}
int MPI_Irecv(void* values, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm, MPI_Request* request) {
  moved(count);
  return PMPI_Irecv(values, count, type, from, tag, comm, request);
}
int MPI_Ibcast(void* values, int count, MPI_Datatype type, int root, MPI_Comm comm, MPI_Request* request) {
  moved(count);
  return PMPI_Ibcast(values, count, type, root, comm, request);
}
int MPI_Iallgather(const void* from, int sent, MPI_Datatype row, void* to, int received, MPI_Datatype block, MPI_Comm comm,
                   MPI_Request* request) {
  moved(std::max(sent, received));
  return PMPI_Iallgather(from, sent, row, to, received, block, comm, request);
}
int MPI_Allgather(const void* from, int sent, MPI_Datatype row, void* to, int received, MPI_Datatype block, MPI_Comm comm) {
  moved(std::max(sent, received));
  return PMPI_Allgather(from, sent, row, to, received, block, comm);
}
int MPI_Iallreduce(const void* from, void* to, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm, MPI_Request* request) {
  reduced(count);
  return PMPI_Iallreduce(from, to, count, type, op, comm, request);
}
int MPI_Allreduce(const void* from, void* to, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
  reduced(count);
  return PMPI_Allreduce(from, to, count, type, op, comm);
}
}

namespace yard {
namespace {

/// Counts that fit into MPI's ints, and limits so low that every call of the contract must be cut into several.
class MpiContract : public testing::TestWithParam<std::tuple<test::ContractCase, bool>> {};

TEST_P(MpiContract, Holds) {
  const auto& [contract, low] = GetParam();
  const MpiLimits limits = low ? MpiLimits{.reduce_elements = 7, .move_rows = 2, .move_bytes = 1 << 20} : MpiLimits{};
  const auto comm = test::runtime().world(limits);
  largest() = {};
  contract.body(*comm);
  EXPECT_LE(largest().moved, limits.move_rows);
  EXPECT_LE(largest().reduced, limits.reduce_elements);
  contract.body(*comm->split(0, comm->rank(), "world/all"));
}

INSTANTIATE_TEST_SUITE_P(Limits, MpiContract, testing::Combine(testing::ValuesIn(test::kContract), testing::Bool()),
                         [](const auto& instance) {
                           return std::string(std::get<0>(instance.param).name) + (std::get<1>(instance.param) ? "InBlocks" : "");
                         });

TEST(MpiLimitsOf, RowsAreCutByBytesToo) {
  const auto comm = test::runtime().world({.reduce_elements = 1000, .move_rows = 1000, .move_bytes = 4});
  largest() = {};
  test::contract_all_to_all(*comm);
  test::contract_all_gather(*comm);
  test::contract_reduce_scatter(*comm);
  EXPECT_LE(largest().moved, 2) << "no row is shorter than 2 bytes";
  if (comm->size() > 1) {
    EXPECT_GE(largest().moved, 2) << "two bf16 values are 4 bytes";
  }
}

TEST(MpiLimitsOf, MustBeInts) {
  EXPECT_THROW((void)test::runtime().world({.reduce_elements = Index{1} << 31, .move_rows = 1, .move_bytes = 1}), Error);
  EXPECT_THROW((void)test::runtime().world({.reduce_elements = 1, .move_rows = 0, .move_bytes = 1}), Error);
}

TEST(MpiWorld, KnowsItsNodes) {
  Communicator& world = test::world();
  EXPECT_EQ(world.name(), "world");
  ASSERT_EQ(world.nodes().size(), static_cast<std::size_t>(world.size()));
  for (const int node : world.nodes()) EXPECT_EQ(node, 0) << "the tests run on one machine";
  for (int rank = 0; rank < world.size(); ++rank) EXPECT_EQ(world.world_ranks()[static_cast<std::size_t>(rank)], rank);
}

TEST(MpiWorld, ProgressCompletesRecordsBeforeTheWait) {
  Communicator& world = test::world();
  test::Bench b;
  const Tensor in = test::contract_tensor(b.stream, {world.size(), 1 << 16}, DType::f32, world.rank());
  const Tensor out = Tensor::zeros(b.stream, in.shape());
  const std::vector<Index> ones(static_cast<std::size_t>(world.size()), 1);
  Work work = world.all_to_all(b.stream, {"dispatch", 0}, in, ones, out, ones);
  const auto from = Clock::now();
  while (seconds_between(from, Clock::now()) < 0.2) world.progress();
  work.wait(b.stream);
  const CollectiveRecord record = world.log().records().back();
  EXPECT_EQ(record.label.text(), "layer.0.dispatch");
  EXPECT_LT(record.seconds(), 0.19) << "progress saw the completion, long before the wait";
  EXPECT_LT(record.exposed_seconds(), 0.1);
  for (int rank = 0; rank < world.size(); ++rank) {
    EXPECT_EQ(out.data<float>()[rank * (1 << 16) + 9], test::contract_value(rank, world.rank() * (1 << 16) + 9));
  }
}

TEST(MpiWorld, WorksDroppedWhileAnExceptionUnwindsAreAbandoned) {
  Communicator& world = test::world();
  test::Bench b;
  try {
    const Tensor x = test::contract_tensor(b.stream, {1000}, DType::f32, world.rank());
    Work work = world.all_reduce(b.stream, {"x"}, x);
    fail("every rank finds the same fault");
  } catch (const Error&) {
  }
  const Tensor y = test::contract_tensor(b.stream, {10}, DType::f32, world.rank());
  world.all_reduce(b.stream, {"y"}, y, Reduce::max).wait(b.stream);
  double largest = -1e9;
  for (int rank = 0; rank < world.size(); ++rank) largest = std::max(largest, test::contract_value(rank, 2));
  EXPECT_EQ(y.data<float>()[2], largest);
}

TEST(MpiAgree, TellsTheLowestFailureToAll) {
  Communicator& world = test::world();
  test::Bench b;
  const int guilty = world.size() - 1;
  try {
    agree(world, [&] { check_input(world.rank() != guilty, "the file of rank ", guilty, " is missing"); });
    FAIL() << "no rank noticed";
  } catch (const AgreedError& error) {
    EXPECT_EQ(std::string(error.what()), "the file of rank " + std::to_string(guilty) + " is missing");
    EXPECT_EQ(error.exit_code(), 2);
    EXPECT_EQ(error.reports(), world.rank() == guilty);
  }
}

/// Run by the tests of faults.
TEST(MpiHarness, DISABLED_FailsOnTheLastRank) { EXPECT_LT(test::world().rank(), test::world().size() - 1) << "only the last rank fails"; }

}  // namespace
}  // namespace yard
