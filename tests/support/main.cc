#include <gtest/gtest.h>

#include <iostream>
#include <memory>
#include <string>

#include "comm/watchdog.h"
#include "tests/support/mpi_world.h"

namespace yard::test {
namespace {

std::unique_ptr<MpiRuntime>& runtime_slot() {
  static std::unique_ptr<MpiRuntime> slot;
  return slot;
}
std::unique_ptr<Communicator>& world_slot() {
  static std::unique_ptr<Communicator> slot;
  return slot;
}

/// What ranks other than 0 print: failures only, with the rank.
class FailurePrinter final : public testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}

 private:
  void OnTestStart(const testing::TestInfo& test) override { test_ = std::string(test.test_suite_name()) + "." + test.name() + ": "; }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::string text = "rank " + std::to_string(rank_) + ": " + test_;  // UnitTest cannot be asked: it is locked here
    const char* file = result.file_name() == nullptr ? "?" : result.file_name();
    std::cerr << text + file + ":" + std::to_string(result.line_number()) + ": " + result.message() + "\n" << std::flush;
  }
  int rank_;
  std::string test_;
};

/// Runs the tests on every rank; the exit code is the largest of all.
int run_over_mpi(int& argc, char**& argv) {
  EventLog log;
  runtime_slot() = std::make_unique<MpiRuntime>(argc, argv, log);
  int code = 1;
  try {
    world_slot() = runtime_slot()->world();
    Communicator& world = *world_slot();
    // A test that leaves early on one rank would leave the others in a collective for ever.
    const Watchdog watchdog(log, {.rank = world.rank(),
                                  .ranks = world.size(),
                                  .seconds = 60,
                                  .folder = {},
                                  .job = {},
                                  .abort = [] { runtime().abort(1); },
                                  .exit = {},
                                  .write = {}});
    if (world.rank() != 0) {
      auto& listeners = testing::UnitTest::GetInstance()->listeners();
      delete listeners.Release(listeners.default_result_printer());
      listeners.Append(new FailurePrinter(world.rank()));  // GoogleTest owns it
      testing::GTEST_FLAG(output) = "";                    // one rank writes the report
    }
    code = RUN_ALL_TESTS();
    Stream stream{Device{}};
    const Tensor largest = Tensor::of<std::int64_t>(stream, {1}, std::vector<std::int64_t>{code});
    world.all_reduce(stream, {"exit code"}, largest, Reduce::max, When::now).wait(stream);
    code = static_cast<int>(largest.data<std::int64_t>()[0]);
  } catch (const std::exception& error) {
    report_and_abort(runtime(), world_slot() ? world_slot()->rank() : 0, error);
  }
  world_slot().reset();
  runtime_slot().reset();
  return code;
}

}  // namespace

MpiRuntime& runtime() {
  check(runtime_slot() != nullptr, "this test runs under mpirun, in a file named *_mpi_test.cc");
  return *runtime_slot();
}
Communicator& world() {
  check(world_slot() != nullptr, "this test runs under mpirun, in a file named *_mpi_test.cc");
  return *world_slot();
}

}  // namespace yard::test

/// Open MPI unloads its modules at the end, before the leak sanitizer looks: their frames would have no name that leaks.txt could match.
extern "C" int dlclose(void*) noexcept { return 0; }

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const std::string name = argv[0];
  const bool asks_for_mpi = name.size() >= 4 && name.compare(name.size() - 4, 4, "_mpi") == 0;
  // Also without mpirun: then it is a world of one, so that a person can start such a test by hand.
  return asks_for_mpi ? yard::test::run_over_mpi(argc, argv) : RUN_ALL_TESTS();
}
