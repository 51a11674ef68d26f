#include "tests/support/fault_run.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

namespace yard::test {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

std::string whole(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Whether the file has the size, and the checksum where there is one, that state.json tells of it.
bool is_as_told(const fs::path& path, const json& told) {
  if (!fs::is_regular_file(path)) return false;
  const std::string bytes = whole(path);
  if (told.is_number()) return bytes.size() == told.get<std::size_t>();
  const json& size = told.at("size");  // proto3 JSON writes 64 bits as text
  const auto number = [](const json& value) {
    return value.is_string() ? std::stoull(value.get<std::string>()) : value.get<std::size_t>();
  };
  if (bytes.size() != number(size)) return false;
  return !told.contains("crc32c") || number(told.at("crc32c")) == crc32c_by_bits(bytes);
}

bool is_complete(const fs::path& folder) {
  const json state = parse_json(whole(folder / "state.json"));
  if (!state.is_object() || !state.contains("files") || state["files"].empty()) return false;
  if (state["files"].is_array()) {
    return std::all_of(state["files"].begin(), state["files"].end(),
                       [&](const json& file) { return is_as_told(folder / file.at("name").get<std::string>(), file); });
  }
  const auto files = state["files"].items();
  return std::all_of(files.begin(), files.end(), [&](const auto& file) { return is_as_told(folder / file.key(), file.value()); });
}

}  // namespace

std::uint32_t crc32c_by_bits(const std::string& bytes) {
  std::uint32_t crc = ~0U;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0x82f63b78U : 0U);
  }
  return ~crc;
}

bool operator==(const Outcome& a, const Outcome& b) { return a.steps == b.steps && a.files == b.files && a.names == b.names; }

void expect_same_outcome(const Outcome& actual, const Outcome& expected) {
  EXPECT_EQ(actual.names, expected.names);
  EXPECT_EQ(actual.steps.size(), expected.steps.size());
  for (std::size_t i = 0; i < std::min(actual.steps.size(), expected.steps.size()); ++i) EXPECT_EQ(actual.steps[i], expected.steps[i]);
  EXPECT_EQ(actual.files.size(), expected.files.size());
  for (const auto& [name, bytes] : expected.files) {
    EXPECT_TRUE(actual.files.contains(name)) << name;
    EXPECT_TRUE(!actual.files.contains(name) || actual.files.at(name) == bytes) << name << " has other bytes";
  }
}

std::string FaultRun::words(const std::string& run, const FaultLayout& layout, const std::string& settings) const {
  return "train --config c --run-dir " + run + " --set run.steps=8 --set checkpoint.keep=2" + layout.settings + settings;
}

CommandResult FaultRun::run(const std::string& words, const FaultLayout& layout, const std::string& plan, const std::string& report) const {
  if (plan.empty()) return program_.run(words, layout.ranks);
  const std::string faults =
      "env LD_PRELOAD=" + std::string(YARD_FAULTS) + " YARD_FAULT='" + plan + "' YARD_FAULT_REPORT='" + (program_ / report) + "' ";
  return run_command(program_.line(words, layout.ranks, faults));
}

Outcome FaultRun::outcome(const std::string& run) const {
  Outcome outcome;
  std::istringstream lines(program_.read(run + "/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const json step = parse_json(line);
    json kept = json::object();
    for (const char* name : {"step", "tokens", "loss", "balance_loss", "z_loss", "grad_norm", "learning_rate", "layers", "skipped_steps"}) {
      if (step.is_object() && step.contains(name)) kept[name] = step[name];
    }
    outcome.steps.push_back(kept);
  }
  const fs::path folder = program_ / (run + "/checkpoints");
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder, none)) {
    const std::string name = entry.path().filename().string();
    // What was passed over or left by going back is kept under another name.
    if (name.find(".left") == std::string::npos) outcome.names.push_back(name);
  }
  std::sort(outcome.names.begin(), outcome.names.end());
  std::string latest = whole(folder / "latest");
  while (!latest.empty() && latest.back() == '\n') latest.pop_back();
  for (const auto& entry : fs::directory_iterator(folder / (latest.empty() ? "none" : latest), none)) {
    if (entry.path().extension() == ".safetensors") outcome.files[entry.path().filename().string()] = whole(entry.path());
  }
  return outcome;
}

std::vector<int> FaultRun::complete(const std::string& run) const {
  std::vector<int> steps;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(program_ / (run + "/checkpoints"), none)) {
    const std::string name = entry.path().filename().string();
    const bool own = name.starts_with("step-") && name.find_first_not_of("0123456789", 5) == std::string::npos;
    if (own && is_complete(entry.path())) steps.push_back(std::stoi(name.substr(5)));
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

}  // namespace yard::test
