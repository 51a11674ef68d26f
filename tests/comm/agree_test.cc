#include "comm/agree.h"

#include <atomic>

#include "comm/local.h"
#include "tests/support/support.h"

namespace yard {
namespace {

/// Runs `body` on four ranks inside agree; what every rank caught.
struct Caught {
  std::string sentence = "nothing";
  int code = 0;
  bool speaks = false;
};
std::vector<Caught> agree_on_four(const std::function<void(int)>& body) {
  std::vector<Caught> caught(4);
  run_local_world(4, [&](Communicator& comm) {
    Stream stream{Device{}};
    try {
      agree(comm, [&] { body(comm.rank()); });
    } catch (const AgreedError& error) {
      caught[static_cast<std::size_t>(comm.rank())] = {error.what(), error.exit_code(), error.reports()};
    }
    comm.barrier({"after"});  // all are still in step
  });
  return caught;
}

TEST(Agree, PassesWhenAllDo) {
  std::atomic<int> ran = 0;
  for (const Caught& rank : agree_on_four([&](int) { ++ran; })) EXPECT_EQ(rank.sentence, "nothing");
  EXPECT_EQ(ran, 4);
}

TEST(Agree, TellsTheLowestFailureToAll) {
  const auto caught = agree_on_four([](int rank) {
    if (rank == 2) fail_input("the token file is too short for rank ", rank);
    check(rank != 3, "rank 3 has no disk");
  });
  for (int rank = 0; rank < 4; ++rank) {
    const Caught& own = caught[static_cast<std::size_t>(rank)];
    EXPECT_EQ(own.sentence, "the token file is too short for rank 2");
    EXPECT_EQ(own.code, 2);
    EXPECT_EQ(own.speaks, rank == 2);
  }
}

TEST(Agree, KnowsErrorsOfEveryKind) {
  EXPECT_EQ(agree_on_four([](int rank) { check(rank != 0, "rank 0 fails"); })[3].code, 1);
  EXPECT_EQ(agree_on_four([](int) { throw std::bad_alloc(); })[1].code, 1);
  EXPECT_NE(agree_on_four([](int rank) {
              if (rank == 1) throw 7;
            })[0]
                .sentence.find("unknown kind"),
            std::string::npos);
  const auto utf8 = agree_on_four([](int) { fail("run.name \xc3\xa9 has no file"); });
  EXPECT_EQ(utf8[3].sentence, "run.name \xc3\xa9 has no file");
  EXPECT_EQ(agree_on_four([](int) { fail(""); })[2].sentence, "");
}

TEST(Agree, ExitCodes) {
  EXPECT_EQ(exit_code_of(InputError("x")), 2);
  EXPECT_EQ(exit_code_of(Error("x")), 1);
  EXPECT_EQ(exit_code_of(std::runtime_error("x")), 1);
  EXPECT_EQ(exit_code_of(AgreedError("x", 2, false)), 2);
  EXPECT_EQ(exit_code_of(AgreedError("x", 1, true)), 1);
}

}  // namespace
}  // namespace yard
