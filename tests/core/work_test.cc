#include "core/work.h"

#include <string>

#include "tests/support/support.h"

namespace yard {
namespace {

/// Writes what happens to it into a log.
class Logged final : public Work::State {
 public:
  Logged(std::string name, std::string& log, const bool& done) : name_(std::move(name)), log_(log), done_(done) {}
  void wait(Stream&) override { log_ += "wait " + name_ + ". "; }
  bool done() override { return done_; }
  void abandon() noexcept override { log_ += "abandon " + name_ + ". "; }

 private:
  std::string name_;
  std::string& log_;
  const bool& done_;
};

class WorkTest : public testing::Test {
 protected:
  Work work(const std::string& name) { return {stream, std::make_unique<Logged>(name, log, done)}; }
  Stream stream{Device{}};
  std::string log;
  bool done = false;
};

TEST_F(WorkTest, ThenRunsAfterTheFirstAndMayOwnWhatCannotBeCopied) {
  Work chain = Work::then(stream, work("a"), [this, only = std::make_unique<std::string>("then. ")](Stream&) { log += *only; });
  EXPECT_FALSE(chain.done());
  done = true;
  EXPECT_TRUE(chain.done());
  EXPECT_EQ(log, "") << "done does not wait";
  chain.wait(stream);
  EXPECT_EQ(log, "wait a. then. ");
  EXPECT_TRUE(chain.done());
  chain.wait(stream);
  EXPECT_EQ(log, "wait a. then. ") << "waiting again does nothing";
}

TEST_F(WorkTest, AllWaitsInOrderAndIsDoneWhenAllAre) {
  bool second = false;
  std::vector<Work> works;
  works.push_back(work("a"));
  works.emplace_back();
  works.emplace_back(stream, std::make_unique<Logged>("b", log, second));
  Work all = Work::all(std::move(works));
  done = true;
  EXPECT_FALSE(all.done());
  second = true;
  EXPECT_TRUE(all.done());
  all.wait(stream);
  EXPECT_EQ(log, "wait a. wait b. ");
  EXPECT_FALSE(Work::all({}).pending());
}

TEST_F(WorkTest, ADestroyedWorkIsWaitedFor) {
  {
    const Work dropped = Work::then(stream, work("a"), [this](Stream&) { log += "then. "; });
  }
  EXPECT_EQ(log, "wait a. then. ");
  log.clear();
  Work assigned = work("b");
  assigned = work("c");
  EXPECT_EQ(log, "wait b. ");
}

TEST_F(WorkTest, WhileAnExceptionUnwindsEveryPartIsAbandoned) {
  try {
    std::vector<Work> works;
    works.push_back(work("a"));
    works.push_back(Work::then(stream, work("b"), [this](Stream&) { log += "then. "; }));
    const Work all = Work::all(std::move(works));
    fail("unwind");
  } catch (const Error&) {
  }
  EXPECT_EQ(log, "abandon a. abandon b. ");
}

}  // namespace
}  // namespace yard
