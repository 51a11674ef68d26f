#include <gmock/gmock.h>
#include <signal.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "tests/launch/program.h"

using namespace yard;
using test::CommandResult;
using test::expect_sentence;
using test::own_lines;
using test::Program;
using testing::HasSubstr;
using testing::Not;
namespace fs = std::filesystem;

namespace {

std::string whole(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The process of a rank that runs `switchyard` with these words; 0 while there is none.
pid_t process_of(const std::string& words, int rank) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (fs::read_symlink(entry.path() / "exe", ignored).string() != fs::canonical(YARD_BINARY).string()) continue;
    if (whole(entry.path() / "cmdline").find(words) == std::string::npos) continue;
    if (whole(entry.path() / "environ").find("OMPI_COMM_WORLD_RANK=" + std::to_string(rank) + std::string(1, '\0')) == std::string::npos)
      continue;
    return static_cast<pid_t>(std::stol(name));
  }
  return 0;
}

struct Ended {
  CommandResult result;
  double seconds = 0;  // since the signal
};

/// Sends a signal to one rank of a run that would go on for ever, when it has made its first steps.
Ended after_signal(const Program& program, int signal, int rank, const std::string& settings) {
  const std::string run = program / "r";
  Ended ended;
  std::thread starter([&] {
    ended.result = program.run("train --config c --run-dir " + run + " --set run.steps=1000000 --set mesh.expert=2 " + settings, 2);
  });
  pid_t process = 0;
  for (int tries = 0; tries < 600 && (process == 0 || whole(run + "/metrics.jsonl").empty()); ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    process = process_of(run, rank);
  }
  EXPECT_NE(process, 0) << "the run did not start";
  const auto from = std::chrono::steady_clock::now();
  if (process > 0) ::kill(process, signal);
  starter.join();
  ended.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
  return ended;
}

/// One token beyond the vocabulary at this position of the file `bad`.
void plant_token(const Program& program, std::streamoff position) {
  fs::copy_file(program / "text.idx", program / "bad.idx");
  fs::copy_file(program / "text.bin", program / "bad.bin");
  std::fstream file(program / "bad.bin", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(position * 2);
  file.write("\x2c\x01", 2);  // 300
}

/// A run that goes on from `r` with these settings ends well.
void expect_goes_on(const Program& program, int ranks, const std::string& settings) {
  const auto result = program.run("train --config c --run-dir r --set mesh.expert=" + std::to_string(ranks) + " " + settings, ranks);
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("goes on from r/checkpoints/step-"));
}

TEST(FailedRun, ATokenBeyondTheVocabularyIsFoundBeforeTheFirstStep) {
  const Program program;
  plant_token(program, 9999);  // the last one, which no step of this run takes
  ASSERT_EQ(program.run("train --config c --run-dir r").code, 0);
  for (const int ranks : {0, 2, 4}) {
    SCOPED_TRACE(ranks);
    const std::string mesh = ranks > 0 ? " --set mesh.expert=2" : "";
    for (const std::string& setting : {std::string("data.train=bad"), std::string("data.validation=bad")}) {
      const auto result = program.run("train --config c --run-dir r --resume never --set " + setting + mesh, ranks);
      expect_sentence(result, 2, {"bad.bin holds id 300 at position 9999", "vocabulary of 257"});
      EXPECT_THAT(result.out, Not(HasSubstr("step 1/4")));
    }
  }
  EXPECT_TRUE(program.has("r/checkpoints/latest")) << "the earlier run stays where it is";
  EXPECT_FALSE(program.has("r/earlier-1"));
}

/// Changes what data_scan.json says of the largest id, as nothing else would.
void pretend_scanned(const Program& program, const std::string& largest) {
  const std::string text = program.read("r/data_scan.json");
  const std::string field = "\"largest\": ";
  const std::size_t at = text.find(field) + field.size();
  program.write("r/data_scan.json", text.substr(0, at) + largest + text.substr(text.find(',', at)));
}

TEST(FailedRun, AScanOfTheDataIsKeptInTheRunDirectoryUntilAFileChanges) {
  const Program program;
  const std::string train = "train --config c --run-dir r --set run.steps=";
  ASSERT_EQ(program.run(train + "2").code, 0);
  EXPECT_THAT(program.read("r/data_scan.json"), HasSubstr("text.bin"));
  pretend_scanned(program, "299");
  expect_sentence(program.run(train + "4"), 2, {"text.bin holds id 299", "vocabulary of 257"});
  expect_sentence(program.run(train + "4 --set mesh.expert=2", 2), 2, {"text.bin holds id 299", "vocabulary of 257"});
  fs::last_write_time(program / "text.bin", fs::last_write_time(program / "text.bin") + std::chrono::nanoseconds(1000));
  EXPECT_EQ(program.run(train + "4").code, 0) << "a file that changed is scanned again";
  int steps = 4;
  for (const std::string damaged : {"", "{", "[]", "{\"scans\": [1]}", "{\"scans\": [{\"stream\": {}, \"largest\": \"x\"}]}"}) {
    program.write("r/data_scan.json", damaged);
    EXPECT_EQ(program.run(train + std::to_string(++steps)).code, 0) << damaged;
    EXPECT_THAT(program.read("r/data_scan.json"), HasSubstr("text.bin")) << damaged;
  }
  EXPECT_FALSE(program.has("data_scan.json"));
}

TEST(FailedRun, ALossThatIsNoNumberStopsWithItsStepAndKeepsTheLastCheckpoint) {
  const Program program;
  const std::string start = "train --config c --run-dir r --set mesh.expert=2 --set run.steps=";
  ASSERT_EQ(program.run(start + "4", 2).code, 0);
  expect_sentence(program.run(start + "40 --set optimizer.peak_rate=1e30", 2), 1,
                  {"not a finite number at step 6", "the last checkpoint stays"});
  EXPECT_EQ(program.read("r/checkpoints/latest"), "step-00000004\n");
  expect_goes_on(program, 2, "--set run.steps=6");
  expect_sentence(program.run("train --config c --run-dir r1 --set init.deviation=1e20"), 1, {"not a finite number at step 1"});
  EXPECT_FALSE(program.has("r1/checkpoints"));
}

TEST(FailedRun, FilesThatCannotTakeMoreEndTheRun) {
  const Program program;
  for (const std::string name : {"metrics.jsonl", "log.txt"}) {
    for (const int ranks : {0, 2}) {
      const std::string run = (ranks == 0 ? "alone-" : "two-") + name;
      fs::create_directory(program / run);
      fs::create_symlink("/dev/full", program / (run + "/" + name));
      expect_sentence(program.run("train --config c --run-dir " + run, ranks), 1, {"cannot write " + run + "/" + name, "No space left"});
    }
  }
}

TEST(FailedRun, OutputThatCannotBeWrittenIsAnError) {
  const Program program;
  ASSERT_EQ(program.run("train --config c --run-dir r").code, 0);
  const std::vector<std::string> commands = {"--help",
                                             "--version",
                                             "train --help",
                                             "train --help-config",
                                             "train --config c --run-dir r",
                                             "train --config c --run-dir new",
                                             "eval --checkpoint r --text c",
                                             "eval --checkpoint r --text c --json",
                                             "generate --checkpoint r --prompt a --tokens 2",
                                             "tokenize --text c --tokenizer bytes --out o",
                                             "baselines --train text --validation text --tokenizer bytes",
                                             "bench gemm --help"};
  std::error_code ignored;
  for (const std::string& words : commands) {
    SCOPED_TRACE(words);
    expect_sentence(program.run(words + " > /dev/full"), 1, {"cannot write to stdout: No space left on device"});
    fs::rename(program / "new", program / "done", ignored);
    expect_sentence(program.run(words + " >&-"), 1, {"cannot write to stdout: Bad file descriptor"});
  }
  EXPECT_TRUE(program.has("done/checkpoints/step-00000004/state.json")) << "what was done beside the output is complete";
  for (const std::string before : {"", "trap '' PIPE; "}) {
    const auto piped = test::run_command(before + "{ " + program.line("train --help-config", 0) + "; echo code $? >&2; } | true");
    EXPECT_EQ(piped.err, "code 141\n") << before;
  }
}

TEST(FailedRun, NumbersThatAreNotFiniteAreNullInJson) {
  const Program program;
  ASSERT_EQ(program.run("train --config c --run-dir r --set run.steps=2").code, 0);
  for (const auto& entry : fs::directory_iterator(program / "r/checkpoints/step-00000002")) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("model") || !name.ends_with(".safetensors")) continue;
    const std::string file = whole(entry.path());
    std::uint64_t header = 0;
    std::memcpy(&header, file.data(), sizeof header);
    std::ofstream(entry.path(), std::ios::binary) << file.substr(0, 8 + header) << std::string(file.size() - 8 - header, '\xff');
  }
  const auto result = program.run("eval --checkpoint r --text c --json");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("\"loss\":null"));
  EXPECT_THAT(result.out, Not(HasSubstr("nan")));
}

/// A file system of this size at `full`, seen only by the commands that follow in the same shell; empty where this is not permitted.
std::string small_disk(const Program& program, const std::string& size) {
  for (const std::string unshare : {"unshare -m", "unshare -rm"}) {
    const std::string mount = "mkdir -p full && mount -t tmpfs -o size=" + size + " tmpfs full";
    if (test::run_command("cd '" + (program / "") + "' && " + unshare + " sh -c '" + mount + "'").code == 0)
      return unshare + " sh -c '" + mount + " && ";
  }
  return "";
}

TEST(FailedRun, AFullDiskEndsTheRunAndKeepsTheLastCheckpoint) {
  const Program program;
  const std::string disk = small_disk(program, "1500k");
  if (disk.empty()) GTEST_SKIP() << "no file system may be mounted here";
  const std::string mpirun = std::string(YARD_MPIRUN) + " -q -np 2 ";
  const std::string binary = YARD_BINARY;
  const auto result = test::run_command("cd '" + (program / "") + "' && " + disk + "timeout -k 5 90 " + mpirun + binary +
                                        " train --config c --run-dir full/r --set run.steps=20 --set mesh.expert=2; code=$?; "
                                        "cat full/r/checkpoints/latest; ls full/r/checkpoints; " +
                                        binary + " eval --checkpoint full/r --text c || exit 99; exit $code'");
  expect_sentence(result, 1, {"cannot write full/r/", "No space left on device"});
  EXPECT_THAT(result.out, HasSubstr("step-00000004\nlatest\nstep-00000002\nstep-00000004\n"));
  EXPECT_THAT(result.out, HasSubstr("bits per byte"));
}

TEST(FailedRun, AKilledRankEndsTheJobWithinTenSeconds) {
  for (const int rank : {0, 1}) {
    const Program program;
    const Ended ended = after_signal(program, SIGKILL, rank, "");
    EXPECT_EQ(ended.result.code, 137) << ended.result.err;
    EXPECT_LT(ended.seconds, 10);
  }
}

TEST(FailedRun, AStoppedRankIsFoundByTheWatchdog) {
  const Program program;
  const Ended ended = after_signal(program, SIGSTOP, 1, "--set run.watchdog_seconds=3");
  EXPECT_EQ(ended.result.code, 1) << ended.result.err;
  EXPECT_LT(ended.seconds, 3 + 10);
  EXPECT_THAT(ended.result.err,
              testing::ContainsRegex("watchdog: rank 0 has waited [0-9.]+ s in .*: rank 1 is missing .*run.watchdog_seconds is 3\n$"));
  EXPECT_TRUE(program.has("r/watchdog-rank-0.json"));
  EXPECT_THAT(program.read("r/watchdog-rank-0.json"), HasSubstr("\"kind\""));
  EXPECT_THAT(program.read("r/watchdog-rank-0.json"), HasSubstr("\"layer\""));
}

}  // namespace
