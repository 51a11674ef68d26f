#include "comm/local.h"

#include <atomic>
#include <thread>

#include "tests/comm/contract.h"

namespace yard {
namespace {

using test::Bench;

class LocalContract : public testing::TestWithParam<std::tuple<test::ContractCase, int>> {};

TEST_P(LocalContract, Holds) {
  const auto& [contract, ranks] = GetParam();
  run_local_world(ranks, contract.body);
}

TEST_P(LocalContract, HoldsOverTwoNodes) {
  const auto& [contract, ranks] = GetParam();
  std::vector<int> nodes(static_cast<std::size_t>(ranks), 0);
  for (int rank = ranks / 2; rank < ranks; ++rank) nodes[static_cast<std::size_t>(rank)] = 1;
  run_local_world({.ranks = ranks, .nodes = nodes, .logs = {}}, contract.body);
}

INSTANTIATE_TEST_SUITE_P(Ranks, LocalContract, testing::Combine(testing::ValuesIn(test::kContract), testing::Values(1, 2, 3, 4)),
                         [](const auto& instance) {
                           return std::string(std::get<0>(instance.param).name) + "On" + std::to_string(std::get<1>(instance.param));
                         });

TEST(LocalSelf, KeepsTheContract) {
  EventLog recorder;
  const auto self = make_self(recorder);
  EXPECT_EQ(self->size(), 1);
  for (const auto& contract : test::kContract) contract.body(*self);
}

/// The message that run_local_world throws.
std::string error_of(int ranks, const std::function<void(Communicator&)>& body) {
  try {
    run_local_world(ranks, body);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

TEST(LocalWorld, TheErrorOfOneRankSurfaces) {
  for (int guilty = 0; guilty < 3; ++guilty) {
    std::atomic<int> others = 0;
    const auto body = [&](Communicator& comm) {
      Bench b;
      const Tensor x = Tensor::zeros(b.stream, {4});
      comm.all_reduce(b.stream, {"x"}, x).wait(b.stream);
      if (comm.rank() == guilty) throw std::out_of_range("the expert of rank " + std::to_string(guilty) + " is out of range");
      try {
        comm.all_reduce(b.stream, {"x"}, x).wait(b.stream);
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("is out of range"), std::string::npos) << error.what();
        ++others;
        throw;
      }
    };
    EXPECT_EQ(error_of(3, body), "the expert of rank " + std::to_string(guilty) + " is out of range");
    EXPECT_EQ(others, 2);
    EXPECT_THROW(run_local_world(3, body), std::out_of_range);
  }
}

TEST(LocalWorld, AnErrorWithWorksUnderWaySurfaces) {
  const std::string message = error_of(4, [](Communicator& comm) {
    Bench b;
    const Tensor x = Tensor::zeros(b.stream, {4});
    Work work = comm.all_reduce(b.stream, {"x"}, x);
    if (comm.rank() == 1) fail("rank 1 gives up");
    Work next = comm.all_reduce(b.stream, {"x"}, x);
    next.wait(b.stream);
  });
  EXPECT_EQ(message, "rank 1 gives up");
}

TEST(LocalWorld, ARankThatLeavesEarlyIsNoticed) {
  const std::string message = error_of(3, [](Communicator& comm) {
    Bench b;
    if (comm.rank() == 2) return;
    comm.barrier({"meet"});
  });
  EXPECT_NE(message.find("rank 2 of world ended without entering barrier"), std::string::npos) << message;
}

TEST(LocalWorld, DifferentCallsThrowEverywhere) {
  const std::vector<std::function<void(Communicator&, Bench&)>> mismatches = {
      [](Communicator& comm, Bench& b) {  // another collective
        if (comm.rank() == 1) {
          comm.barrier({"x"});
        } else {
          comm.all_reduce(b.stream, {"x"}, Tensor::zeros(b.stream, {2})).wait(b.stream);
        }
      },
      [](Communicator& comm, Bench& b) {  // another width
        const Index width = comm.rank() == 1 ? 3 : 2;
        const std::vector<Index> none(static_cast<std::size_t>(comm.size()), 0);
        comm.all_to_all(b.stream, {"x"}, Tensor::zeros(b.stream, {0, width}), none, Tensor::zeros(b.stream, {0, width}), none)
            .wait(b.stream);
      },
      [](Communicator& comm, Bench& b) {  // another length
        comm.all_reduce(b.stream, {"x"}, Tensor::zeros(b.stream, {comm.rank() == 1 ? 3 : 2})).wait(b.stream);
      },
      [](Communicator& comm, Bench& b) {  // another dtype
        const DType dtype = comm.rank() == 1 ? DType::bf16 : DType::f32;
        comm.all_gather(b.stream, {"x"}, Tensor::zeros(b.stream, {1}, dtype), Tensor::zeros(b.stream, {comm.size()}, dtype)).wait(b.stream);
      },
      [](Communicator& comm, Bench& b) {  // another root
        comm.broadcast(b.stream, {"x"}, Tensor::zeros(b.stream, {1}), comm.rank() == 1 ? 0 : 1).wait(b.stream);
      },
      [](Communicator& comm, Bench& b) {  // rank 1 expects a row more from its neighbour than that one sends
        std::vector<Index> send(static_cast<std::size_t>(comm.size()), 1);
        std::vector<Index> receive = send;
        if (comm.rank() == 1) receive[0] = 2;
        comm.all_to_all(b.stream, {"x"}, Tensor::zeros(b.stream, {comm.size()}), send,
                        Tensor::zeros(b.stream, {comm.size() + (comm.rank() == 1 ? 1 : 0)}), receive)
            .wait(b.stream);
        comm.barrier({"after"});
      },
      [](Communicator& comm, Bench& b) {  // everybody expects rows from rank 0, who sends them to rank 1
        const Tensor x = Tensor::zeros(b.stream, {1});
        const Tensor y = Tensor::zeros(b.stream, {1});
        comm.send_receive(b.stream, {"x"}, x, comm.rank() == 0 ? 1 : 0, y, comm.rank() == 0 ? 1 : 0).wait(b.stream);
        comm.barrier({"after"});
      },
  };
  for (std::size_t i = 0; i < mismatches.size(); ++i) {
    std::atomic<int> thrown = 0;
    const std::string message = error_of(3, [&](Communicator& comm) {
      Bench b;
      try {
        mismatches[i](comm, b);
      } catch (const Error&) {
        ++thrown;
        throw;
      }
    });
    EXPECT_NE(message.find("disagree"), std::string::npos) << "mismatch " << i << ": " << message;
    EXPECT_EQ(thrown, 3) << "mismatch " << i;
  }
}

TEST(LocalWorld, InputsAreCopiedWhenPosted) {
  run_local_world(3, [](Communicator& comm) {
    Bench b;
    for (int turn = 0; turn < 50; ++turn) {
      const Tensor x = test::contract_tensor(b.stream, {64}, DType::f64, comm.rank(), turn);
      const Tensor whole = Tensor::zeros(b.stream, {3 * 64}, DType::f64);
      Work work = comm.all_gather(b.stream, {"x"}, x, whole);
      if ((comm.rank() + turn) % 3 == 0) std::this_thread::yield();
      work.wait(b.stream);
      for (Index i = 0; i < 64; ++i) x.data<double>()[i] = -1;  // others may not have read it yet
      for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(whole.data<double>()[rank * 64 + 5], test::contract_value(rank, 5, turn));
    }
  });
}

TEST(LocalWorld, RefusesWorldsThatCannotBe) {
  const auto nothing = [](Communicator&) {};
  EXPECT_THROW(run_local_world(0, nothing), Error);
  EXPECT_THROW(run_local_world({.ranks = 2, .nodes = {0}, .logs = {}}, nothing), Error);
  EventLog recorder;
  EXPECT_THROW(run_local_world({.ranks = 2, .nodes = {}, .logs = {&recorder}}, nothing), Error);
}

}  // namespace
}  // namespace yard
