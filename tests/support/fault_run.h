#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/io/json.h"
#include "tests/launch/program.h"

namespace yard::test {

/// How ranks are laid out in a run, and the settings that say so.
struct FaultLayout {
  std::string name;
  int ranks = 0;  // 0: without mpirun
  std::string settings;
};
inline FaultLayout experts() { return {"experts", 2, " --set mesh.expert=2"}; }
/// As `experts`, with files written before training goes on.
inline FaultLayout waiting() { return {"waiting", 2, " --set mesh.expert=2 --set checkpoint.async=false"}; }
inline FaultLayout replicas() { return {"replicas", 2, " --set mesh.data=2"}; }
inline FaultLayout alone() { return {"alone", 0, ""}; }

/// What a run left behind that must not depend on what happened to it on its way.
struct Outcome {
  std::vector<nlohmann::json> steps;         // of each line of metrics.jsonl what does not tell a time
  std::map<std::string, std::string> files;  // the tensors of the last checkpoint: name and bytes
  std::vector<std::string> names;            // in checkpoints/
};
bool operator==(const Outcome& a, const Outcome& b);

/// The program with a run of eight steps, saved at 2, 4, 6 and 8 of which two are kept, that faults can be planted in.
class FaultRun {
 public:
  const Program& program() const noexcept { return program_; }
  /// The command line of every run: only the folder differs.
  std::string words(const std::string& run, const FaultLayout& layout, const std::string& settings = "") const;
  /// Runs it with a plan of tests/support/faults/plan.h, of which `report` then tells what happened; an empty plan leaves the program as it
  /// is.
  CommandResult run(const std::string& words, const FaultLayout& layout, const std::string& plan = "",
                    const std::string& report = "report") const;
  Outcome outcome(const std::string& run) const;
  /// The steps of the complete checkpoints of a run: state.json is there and all that it names has its size and checksum.
  std::vector<int> complete(const std::string& run) const;

 private:
  Program program_;
};

/// CRC-32C (Castagnoli) a bit at a time.
std::uint32_t crc32c_by_bits(const std::string& bytes);

/// Fails unless both are the same, and tells what differs.
void expect_same_outcome(const Outcome& actual, const Outcome& expected);

}  // namespace yard::test
