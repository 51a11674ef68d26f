#include "launch/progress.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "tests/support/support.h"

using namespace yard;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

namespace {
std::string content(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A terminal of a given width, and what was written to it.
class FakeTerminal {
 public:
  explicit FakeTerminal(unsigned short columns) {
    EXPECT_EQ(::openpty(&outside_, &inside_, nullptr, nullptr, nullptr), 0);
    resize(columns);
    ::fcntl(outside_, F_SETFL, O_NONBLOCK);
  }
  ~FakeTerminal() {
    ::close(inside_);
    ::close(outside_);
  }
  FakeTerminal(const FakeTerminal&) = delete;
  FakeTerminal& operator=(const FakeTerminal&) = delete;
  void resize(unsigned short columns) const {
    winsize size{};
    size.ws_col = columns;
    size.ws_row = 24;
    EXPECT_EQ(::ioctl(inside_, TIOCSWINSZ, &size), 0);
  }
  int descriptor() const { return inside_; }
  std::string read() const {
    std::string all;
    char bytes[4096];
    for (ssize_t count = 0; (count = ::read(outside_, bytes, sizeof bytes)) > 0;) all.append(bytes, static_cast<std::size_t>(count));
    return all;
  }

 private:
  int outside_ = -1, inside_ = -1;
};

/// What stands in the last line after "\r ESC [ K".
std::string last_status(const std::string& bytes) { return bytes.substr(bytes.rfind("\r\x1b[K") + 4); }

TEST(Words, AreShortAndHaveUnits) {
  EXPECT_EQ(duration_in_words(0.2), "0 s");
  EXPECT_EQ(duration_in_words(59.4), "59 s");
  EXPECT_EQ(duration_in_words(59.6), "1 min 00 s");
  EXPECT_EQ(duration_in_words(245), "4 min 05 s");
  EXPECT_EQ(duration_in_words(3725), "1 h 02 min");
  EXPECT_EQ(duration_in_words(-1), "0 s");
  EXPECT_EQ(token_rate(950.4), "950 tokens/s");
  EXPECT_EQ(token_rate(12345), "12.3 k tokens/s");
  EXPECT_EQ(token_rate(999960), "1.00 M tokens/s");
}

TEST(Progress, IsPlainLinesWhereThereIsNoTerminal) {
  const test::TemporaryFolder folder;
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  {
    RunLog log(pipe[1]);
    log.open(folder.path());
    Progress progress(log, 25, 0, 10);
    for (int step = 1; step <= 25; ++step) progress.step(step, 5.0 / step, 2000, step == 1 ? 30.0 : 2.0);
    progress.finish();
  }
  ::close(pipe[1]);
  std::string screen(4000, ' ');
  screen.resize(static_cast<std::size_t>(::read(pipe[0], screen.data(), screen.size())));
  ::close(pipe[0]);
  EXPECT_EQ(screen,
            "step 1/25  loss 5.0000  2000 tokens/s  12 min 00 s left\n"
            "step 10/25  loss 0.5000  2000 tokens/s  30 s left\n"  // the slow first step is forgotten
            "step 20/25  loss 0.2500  2000 tokens/s  10 s left\n"
            "step 25/25  loss 0.2000  2000 tokens/s\n");
  EXPECT_EQ(content(folder / "log.txt"), screen);
}

TEST(Progress, IsOneLineThatReplacesItselfOnATerminal) {
  if (const std::string reason = test::why_no_pseudo_terminal(); !reason.empty()) GTEST_SKIP() << reason;
  const test::TemporaryFolder folder;
  const FakeTerminal terminal(80);
  RunLog log(terminal.descriptor());
  log.open(folder.path());
  Progress progress(log, 30, 0, 10);
  for (int step = 1; step <= 29; ++step) progress.step(step, 2.5, 12345, 1);
  const std::string before = terminal.read();
  EXPECT_THAT(before, HasSubstr("step 1/30"));
  EXPECT_THAT(before, Not(HasSubstr("\n")));
  log.line("a line in between");
  const std::string between = terminal.read();
  EXPECT_THAT(between, testing::StartsWith("\r\x1b[Ka line in between\r\n")) << "the status line is cleared first";
  EXPECT_THAT(between, testing::EndsWith("left")) << "and stands below afterwards";
  progress.step(30, 2.25, 12345, 1);
  progress.finish();
  const std::string end = terminal.read();
  EXPECT_EQ(last_status(end), "step 30/30  loss 2.2500  12.3 k tokens/s\r\n");
  EXPECT_EQ(content(folder / "log.txt"),
            "step 1/30  loss 2.5000  12.3 k tokens/s  29 s left\n"
            "step 10/30  loss 2.5000  12.3 k tokens/s  20 s left\n"
            "step 20/30  loss 2.5000  12.3 k tokens/s  10 s left\n"
            "a line in between\n"
            "step 30/30  loss 2.2500  12.3 k tokens/s\n");
}

TEST(Progress, FitsTheWidthOfTheTerminal) {
  if (const std::string reason = test::why_no_pseudo_terminal(); !reason.empty()) GTEST_SKIP() << reason;
  const FakeTerminal terminal(40);
  RunLog log(terminal.descriptor());
  Progress progress(log, 30, 29, 10);
  progress.step(30, 2.5, 12345, 1);
  EXPECT_EQ(last_status(terminal.read()), "step 30/30  loss 2.5000");
  terminal.resize(200);
  progress.step(30, 2.5, 12345, 1);
  EXPECT_EQ(last_status(terminal.read()), "step 30/30  loss 2.5000  12.3 k tokens/s");
  terminal.resize(8);
  progress.step(30, 2.5, 12345, 1);
  EXPECT_EQ(last_status(terminal.read()), "step 30");
}

TEST(Progress, CountsFromWhereARunResumes) {
  RunLog silent;
  Progress progress(silent, 100, 60, 10);
  EXPECT_LT(progress.seconds_left(60), 0);
  progress.step(61, 1, 1, 50);
  EXPECT_DOUBLE_EQ(progress.seconds_left(61), 39 * 50);
  progress.step(62, 1, 1, 2);
  EXPECT_DOUBLE_EQ(progress.seconds_left(62), 38 * 2);
  progress.step(63, 1, 1, 3);
  EXPECT_NEAR(progress.seconds_left(63), 37 * 2.1, 1e-9);
}
}  // namespace
