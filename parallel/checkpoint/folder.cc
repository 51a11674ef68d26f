#include "parallel/checkpoint/folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <sstream>

#include "comm/text.h"
#include "core/io/crc32c.h"
#include "core/io/file.h"
#include "core/io/json.h"

namespace yard {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kFormatVersion = 1;

void sync_folder(const fs::path& folder) {
  const FileDescriptor descriptor(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!descriptor || fsync(descriptor.get()) != 0) fail("cannot bring ", folder.string(), " to the disk: ", std::strerror(errno));
}

std::uint32_t checksum_of(const std::string& path) {
  const ReadFile file(path);
  std::vector<std::byte> piece(std::size_t{4} << 20);
  std::uint32_t sum = 0;
  for (std::uint64_t at = 0; at < file.size(); at += piece.size()) {
    const auto part = std::span(piece).first(std::min<std::uint64_t>(piece.size(), file.size() - at));
    file.read(at, part);
    sum = crc32c(part, sum);
  }
  return sum;
}

/// CRC-32C of all that a state says: of its message, so that another program may write the same JSON with other spaces.
std::uint32_t checksum_of(CheckpointState state) {
  state.clear_checksum();
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream out(&bytes);
    google::protobuf::io::CodedOutputStream coded(&out);
    coded.SetSerializationDeterministic(true);  // maps in the order of their keys
    check(state.SerializeToCodedStream(&coded), "a checkpoint's state cannot be written");
  }
  return crc32c(std::as_bytes(std::span(bytes)));
}

/// The step in "step-00000100"; -1 for any other name.
std::int64_t step_of(const std::string& name) {
  if (!name.starts_with("step-") || name.size() < 6 || name.size() > 23) return -1;
  if (name.find_first_not_of("0123456789", 5) != std::string::npos) return -1;
  return std::stoll(name.substr(5));
}

/// The steps of the complete checkpoints below a folder, newest first.
std::vector<std::int64_t> complete_steps(const std::string& folder) {
  std::vector<std::int64_t> steps;
  if (!is_folder(folder)) return steps;
  for (const std::string& name : names_in_folder(folder)) {
    const std::int64_t step = step_of(name);
    if (step >= 0 && path_exists(fmt::format("{}/{}/state.json", folder, name))) steps.push_back(step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

/// What `latest` says; empty when it cannot be read.
std::string name_in_latest(const std::string& folder) {
  constexpr std::uint64_t kLongestName = 4096;
  try {
    std::istringstream text(read_text_file(folder + "/latest", kLongestName));
    std::string name;
    text >> name;
    return name;
  } catch (const InputError&) {
    return {};
  }
}

bool has_model(const std::string& folder) {
  return path_exists(folder + "/config.json") &&
         (path_exists(folder + "/model.safetensors") || path_exists(folder + "/model.safetensors.index.json"));
}

}  // namespace

std::string checkpoint_name(std::int64_t step) { return fmt::format("step-{:08d}", step); }

std::string to_json(CheckpointState state) {
  state.set_format_version(kFormatVersion);
  json files = json::array();
  for (const auto& file : state.files()) files.push_back({{"name", file.name()}, {"size", file.size()}, {"crc32c", file.crc32c()}});
  json optimizer = json::array();
  for (const auto& piece : state.optimizer()) {
    optimizer.push_back({{"parameter", piece.parameter()},
                         {"first", piece.first()},
                         {"count", piece.count()},
                         {"files", std::map<std::string, std::string>(piece.files().begin(), piece.files().end())},
                         {"whole", piece.whole()}});
  }
  // By hand: protobuf's own writer puts 64-bit numbers into quotes; its reader takes both.
  return json{{"format_version", kFormatVersion},
              {"step", state.step()},
              {"tokens", state.tokens()},
              {"sequences_consumed", state.sequences_consumed()},
              {"skipped_steps", state.skipped_steps()},
              {"skipped_in_a_row", state.skipped_in_a_row()},
              {"recent_norms", std::vector<double>(state.recent_norms().begin(), state.recent_norms().end())},
              {"seed", state.seed()},
              {"precision", state.precision()},
              {"weights", state.weights()},
              {"mesh", {{"expert", state.mesh().expert()}, {"data", state.mesh().data()}}},
              {"config", state.config()},
              {"files", files},
              {"optimizer", optimizer},
              {"checksum", checksum_of(state)}}
             .dump(1) +
         "\n";
}

CheckpointState read_state(const std::string& folder) {
  const std::string path = folder + "/state.json";
  const MappedFile file(path);
  CheckpointState state;
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = false;  // a damaged key of a field that is zero would go unnoticed
  const std::string_view text = file.text();
  const auto status = google::protobuf::util::JsonStringToMessage(google::protobuf::StringPiece(text.data(), text.size()), &state, options);
  check_input(status.ok(), "", path, " is damaged or no checkpoint's state: ", std::string(status.message()));
  check_input(state.format_version() == kFormatVersion, "", path, " has format_version ", state.format_version(),
              "; this program reads version ", kFormatVersion);
  check_input(state.checksum() == checksum_of(state), "", path, " is damaged: it has another checksum than it says");
  return state;
}

std::string damage_of(const std::string& folder, const CheckpointState& state, bool checksums) {
  if (state.files_size() == 0) return "state.json names no files";
  for (const auto& file : state.files()) {
    const std::string path = folder + "/" + file.name();
    std::error_code error;
    const auto size = fs::file_size(path, error);
    if (error) return file.name() + " is missing";
    if (size != static_cast<std::uintmax_t>(file.size()))
      return fmt::format("{} has {} bytes and should have {}", file.name(), size, file.size());
    if (checksums && checksum_of(path) != file.crc32c()) return file.name() + " has another checksum than state.json says";
  }
  return {};
}

std::string latest_checkpoint(const std::string& folder, std::string* note) {
  const std::string name = name_in_latest(folder);
  if (!name.empty() && path_exists(fmt::format("{}/{}/state.json", folder, name))) return fmt::format("{}/{}", folder, name);
  const bool written = path_exists(folder + "/latest");
  const std::string wrong = name.empty() ? fmt::format("{}/latest {}", folder, written ? "names no checkpoint" : "does not exist")
                                         : fmt::format("{}/latest names {}, which is no complete checkpoint", folder, name);
  for (const std::int64_t step : complete_steps(folder)) {
    const std::string path = fmt::format("{}/{}", folder, checkpoint_name(step));
    try {
      if (!damage_of(path, read_state(path), false).empty()) continue;
    } catch (const InputError&) {
      continue;
    }
    if (note != nullptr) *note = fmt::format("{}; the newest complete one is used, {}", wrong, path);
    return path;
  }
  check_input(name.empty(), "", wrong, ", and there is no other one: name a checkpoint instead of the run directory");
  return {};
}

std::string find_checkpoint(const std::string& path, std::string* note) {
  if (path_exists(path + "/state.json") || has_model(path)) return path;
  for (const std::string& folder : {path + "/checkpoints", path}) {
    if (const std::string found = latest_checkpoint(folder, note); !found.empty()) return found;
  }
  if (path_exists(path + "/config.json")) {
    const bool pickled = path_exists(path + "/pytorch_model.bin") || path_exists(path + "/pytorch_model.bin.index.json");
    fail_input("", path, " has a config.json but no model.safetensors or model.safetensors.index.json",
               pickled ? ": its weights are pickled, save them with safe_serialization=True" : "");
  }
  fail_input("there is no checkpoint in ", path,
             "; name a run directory, a folder such as RUN/checkpoints/step-00000100, or a Hugging Face directory");
}

std::string newest_intact_checkpoint(Communicator& control, const std::string& folder, std::vector<std::string>& skipped) {
  std::string names;
  if (control.rank() == 0) {
    for (const std::int64_t step : complete_steps(folder)) names.append(checkpoint_name(step)).append(" ");
  }
  std::istringstream candidates(broadcast_text(control, names));
  for (std::string name; candidates >> name;) {
    const std::string path = fmt::format("{}/{}", folder, name);
    std::string damage;
    try {
      const CheckpointState state = read_state(path);
      damage = damage_of(path, state, false);
      CheckpointState mine;  // each rank reads its share of the files
      for (int i = control.rank(); i < state.files_size(); i += control.size()) *mine.add_files() = state.files(i);
      if (damage.empty() && mine.files_size() > 0) damage = damage_of(path, mine, true);
    } catch (const std::exception& error) {
      damage = error.what();
    }
    damage = [&] {
      for (const std::string& each : gather_texts(control, damage)) {
        if (!each.empty()) return each;
      }
      return std::string();
    }();
    if (damage.empty()) return path;
    skipped.push_back(fmt::format("skipped {}: {}", path, damage));
  }
  return {};
}

void begin_checkpoint(const std::string& folder, std::int64_t step) {
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, "cannot make the folder ", folder, ": ", error.message());
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename().string().ends_with(".tmp")) fs::remove_all(entry.path(), error);
  }
  const std::string path = folder + "/" + checkpoint_name(step) + ".tmp";
  fs::create_directory(path, error);
  check(!error, "cannot make the folder ", path, ": ", error.message());
}

void commit_checkpoint(const std::string& folder, std::int64_t step) {
  const fs::path final_path = fs::path(folder) / checkpoint_name(step);
  const fs::path written = final_path.string() + ".tmp";
  sync_folder(written);
  if (!fs::exists(final_path)) {
    rename_file(written.string(), final_path.string());
  } else if (::renameat2(AT_FDCWD, written.c_str(), AT_FDCWD, final_path.c_str(), RENAME_EXCHANGE) != 0) {
    // A file system that cannot exchange two names: the old one steps aside first.
    const std::string aside = final_path.string() + ".old.tmp";
    rename_file(final_path.string(), aside);
    rename_file(written.string(), final_path.string());
    fs::remove_all(aside);
  } else {
    fs::remove_all(written);
  }
  sync_folder(folder);
  const std::string latest = folder + "/latest";
  FileWriter file(latest + ".tmp");
  file.write(final_path.filename().string() + "\n");
  file.finish();
  rename_file(latest + ".tmp", latest);
  sync_folder(folder);
}

void prune_checkpoints(const std::string& folder, std::int64_t keep, std::int64_t keep_every) {
  std::int64_t kept = 0;
  for (const std::int64_t step : complete_steps(folder)) {
    if (keep_every > 0 && step % keep_every == 0) continue;
    if (++kept > std::max<std::int64_t>(2, keep)) {
      // By another name: what a kill leaves of it is never taken for a checkpoint, and the next save removes it.
      const std::string path = folder + "/" + checkpoint_name(step);
      rename_file(path, path + ".pruned.tmp");
      fs::remove_all(path + ".pruned.tmp");
    }
  }
}

std::vector<std::string> leave_later_checkpoints(const std::string& folder, std::int64_t step) {
  std::vector<std::string> names;
  for (const std::int64_t later : complete_steps(folder)) {
    if (later <= step) break;
    const std::string path = folder + "/" + checkpoint_name(later);
    std::string aside = path + ".left";
    for (int number = 2; fs::exists(aside); ++number) aside = fmt::format("{}.left-{}", path, number);
    rename_file(path, aside);
    names.push_back(fmt::format("{} is of a later step and is now called {}", path, fs::path(aside).filename().string()));
  }
  return names;
}

}  // namespace yard
