// Files of a finished checkpoint that somebody or something damaged: the same command line says which checkpoint it passes over and why,
// goes on from the one before and reaches the same end, bitwise.
#include <gmock/gmock.h>

#include <filesystem>
#include <functional>
#include <iostream>
#include <set>

#include "tests/support/fault_run.h"

using namespace yard;
using namespace yard::test;
using testing::HasSubstr;
namespace fs = std::filesystem;

namespace {

const std::string kNewest = "step-00000008";
const std::string kBefore = "step-00000006";

void flip(const fs::path& path, std::uintmax_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(at));
  const char old = static_cast<char>(file.get());
  file.seekp(static_cast<std::streamoff>(at));
  file.put(static_cast<char>(old ^ 1));
}

class DamagedCheckpoint : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    runs() = std::make_unique<FaultRun>();
    EXPECT_EQ(runs()->run(runs()->words("whole", experts()), experts()).code, 0);
    undisturbed() = runs()->outcome("whole");
    EXPECT_EQ(undisturbed().steps.size(), 8U);
  }
  static void TearDownTestSuite() {
    std::cout << "damaged checkpoints: " << cases() << ", of which " << reached()
              << " were passed over and the run then reached what it had reached, bitwise\n";
    runs().reset();
  }
  static std::unique_ptr<FaultRun>& runs() {
    static std::unique_ptr<FaultRun> made;
    return made;
  }
  static Outcome& undisturbed() {
    static Outcome known;
    return known;
  }
  static int& cases() {
    static int count = 0;
    return count;
  }
  static int& reached() {
    static int count = 0;
    return count;
  }

  /// A finished run with the damage done to its checkpoints/.
  static CommandResult after(const std::function<void(const fs::path&)>& damage, const std::string& run) {
    ++cases();
    fs::copy(runs()->program() / "whole", runs()->program() / run, fs::copy_options::recursive);
    damage(runs()->program() / (run + "/checkpoints"));
    return runs()->run(runs()->words(run, experts()), experts());
  }
  /// Fails unless the damage was noticed and told with these words, and the run went on from `from`.
  static void expect_goes_on(const std::function<void(const fs::path&)>& damage, const std::string& from,
                             const std::vector<std::string>& words) {
    const std::string run = "damaged-" + std::to_string(cases());
    const auto result = after(damage, run);
    EXPECT_EQ(result.code, 0) << result.err;
    const std::string text = result.out + result.err;
    for (const std::string& word : words) EXPECT_THAT(text, HasSubstr(word));
    EXPECT_THAT(text, HasSubstr("goes on from " + run + "/checkpoints/" + from));
    expect_same_outcome(runs()->outcome(run), undisturbed());
    EXPECT_THAT(runs()->complete(run), testing::ElementsAre(6, 8));
    const Outcome outcome = runs()->outcome(run);
    if (text.find("goes on from " + run + "/checkpoints/" + from) != std::string::npos && outcome == undisturbed()) ++reached();
    fs::remove_all(runs()->program() / run);
  }
  static std::set<std::string> files() {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(runs()->program() / ("whole/checkpoints/" + kNewest))) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }
};

TEST_F(DamagedCheckpoint, AFlippedBitInAnyFile) {
  for (const std::string& name : files()) {
    const auto size = fs::file_size(runs()->program() / ("whole/checkpoints/" + kNewest + "/" + name));
    for (const std::uintmax_t at : {size / 2, size - 2}) {
      SCOPED_TRACE(name + " at " + std::to_string(at));
      expect_goes_on([&](const fs::path& folder) { flip(folder / kNewest / name, at); }, kBefore, {kNewest, name});
    }
  }
}

TEST_F(DamagedCheckpoint, AnyFileCutShort) {
  for (const std::string& name : files()) {
    SCOPED_TRACE(name);
    expect_goes_on([&](const fs::path& folder) { fs::resize_file(folder / kNewest / name, fs::file_size(folder / kNewest / name) / 2); },
                   kBefore, {kNewest, name});
  }
}

TEST_F(DamagedCheckpoint, AnyFileGone) {
  for (const std::string& name : files()) {
    SCOPED_TRACE(name);
    // A folder without state.json never became a checkpoint: nothing is passed over.
    const std::vector<std::string> words = name == "state.json" ? std::vector<std::string>() : std::vector<std::string>{kNewest, name};
    expect_goes_on([&](const fs::path& folder) { fs::remove(folder / kNewest / name); }, kBefore, words);
  }
}

TEST_F(DamagedCheckpoint, AFileWithBytesBehindItsEnd) {
  expect_goes_on([](const fs::path& folder) { std::ofstream(folder / kNewest / "config.json", std::ios::app) << "\n"; }, kBefore,
                 {kNewest, "config.json"});
}

/// No digit of state.json can become another one unseen: it says where the data goes on and what the other files hold.
TEST_F(DamagedCheckpoint, ADigitOfItsStateChanged) {
  std::string state = runs()->program().read("whole/checkpoints/" + kNewest + "/state.json");
  std::vector<std::size_t> digits;
  for (std::size_t part = 0; part < 8; ++part) {
    const std::size_t at = state.find_first_of("0123456789", part * state.size() / 8);
    if (at != std::string::npos && (digits.empty() || digits.back() != at)) digits.push_back(at);
  }
  for (const std::string field : {"\"step\"", "\"sequences_consumed\"", "\"tokens\""}) {
    const std::size_t name = state.find(field);
    ASSERT_NE(name, std::string::npos) << field;
    digits.push_back(state.find_first_of("0123456789", name));
  }
  for (const std::size_t at : digits) {
    SCOPED_TRACE(state.substr(at < 20 ? 0 : at - 20, 30));
    expect_goes_on([&](const fs::path& folder) { flip(folder / kNewest / "state.json", at); }, kBefore, {kNewest, "state.json"});
  }
}

TEST_F(DamagedCheckpoint, AllOfTheNewestGone) {
  expect_goes_on([](const fs::path& folder) { fs::remove_all(folder / kNewest); }, kBefore, {});
  expect_goes_on(
      [](const fs::path& folder) {
        fs::remove_all(folder / kNewest);
        fs::create_directory(folder / kNewest);
      },
      kBefore, {});
}

/// `latest` is a help for people and tools; what is complete is seen from the folders.
TEST_F(DamagedCheckpoint, LatestIsGoneOrWrong) {
  const auto texts = {"", "\n", "step-00000006\n", "step-00000099\n", "nonsense\n", "step-00000008"};
  for (const std::string text : texts) {
    SCOPED_TRACE(text);
    const std::string run = "latest-" + std::to_string(cases());
    const auto result = after([&](const fs::path& folder) { std::ofstream(folder / "latest") << text; }, run);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_THAT(result.out, testing::AnyOf(HasSubstr("nothing to do"), HasSubstr("goes on from " + run)));
    EXPECT_EQ(runs()->outcome(run).steps, undisturbed().steps);
    EXPECT_THAT(runs()->complete(run), testing::ElementsAre(6, 8));
    if (result.code == 0) ++reached();
  }
  const auto result = after([](const fs::path& folder) { fs::remove(folder / "latest"); }, "no-latest");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(runs()->outcome("no-latest").steps, undisturbed().steps);
  if (result.code == 0) ++reached();
}

TEST_F(DamagedCheckpoint, AnotherFileBesideItsOwnHarmsNothing) {
  const auto result = after([](const fs::path& folder) { std::ofstream(folder / kNewest / "notes.txt") << "mine\n"; }, "notes");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("nothing to do"));
  EXPECT_TRUE(runs()->program().has("notes/checkpoints/" + kNewest + "/notes.txt"));
  ++reached();
}

TEST_F(DamagedCheckpoint, NamedByItselfItIsRefusedWithASentence) {
  ++cases();
  fs::copy(runs()->program() / "whole", runs()->program() / "named", fs::copy_options::recursive);
  const std::string folder = "named/checkpoints/" + kNewest;
  for (const std::string& name : files()) {
    if (!name.starts_with("optimizer-")) continue;
    flip(runs()->program() / (folder + "/" + name), fs::file_size(runs()->program() / (folder + "/" + name)) / 2);
    const auto result = runs()->run(runs()->words("named", experts()) + " --set run.steps=10 --resume " + folder, experts());
    expect_sentence(result, 2, {name});
    ++reached();
    return;
  }
  FAIL() << "there is no optimizer file";
}

}  // namespace
