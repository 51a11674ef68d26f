#include "parallel/checkpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "comm/agree.h"
#include "core/io/file.h"
#include "core/io/safetensors.h"
#include "core/ops/elementwise.h"

namespace yard {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kFormatVersion = 1;

std::string step_name(Index step) { return fmt::format("step-{:08d}", step); }

void sync_folder(const fs::path& folder) {
  const FileDescriptor descriptor(open(folder.c_str(), O_RDONLY | O_DIRECTORY));
  check(static_cast<bool>(descriptor) && fsync(descriptor.get()) == 0, "cannot bring ", folder.string(), " to the disk");
}

void write_text(const fs::path& path, const std::string& text) {
  FileWriter file(path.string());
  file.write(text);
  file.finish();
}

SafetensorsEntry entry_of(const std::string& name, const Tensor& values) {
  SafetensorsEntry entry;
  entry.name = name;
  entry.dtype = safetensors_dtype(values.dtype());
  for (int axis = 0; axis < values.shape().rank(); ++axis) entry.shape.push_back(values.shape()[axis]);
  return entry;
}

/// A file of named tensors, sorted as the writer wants them.
void write_tensors(const fs::path& path, const std::map<std::string, Tensor>& tensors) {
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, values] : tensors) entries.push_back(entry_of(name, values));
  std::stable_sort(entries.begin(), entries.end(),
                   [&](const auto& a, const auto& b) { return size_of(tensors.at(a.name).dtype()) > size_of(tensors.at(b.name).dtype()); });
  SafetensorsWriter writer(path.string(), entries);
  for (const auto& entry : entries) writer.write(tensors.at(entry.name));
  writer.finish();
}

std::string model_file(int part, int parts) { return fmt::format("model-{:05d}-of-{:05d}.safetensors", part + 1, parts); }
std::string optimizer_file(int rank, int ranks) { return fmt::format("optimizer-{:05d}-of-{:05d}.safetensors", rank + 1, ranks); }

/// The logical tensors that this rank writes: its experts where it is their first replica; rank 0 also what every rank holds.
std::map<std::string, Tensor> own_tensors(Mesh& mesh, ParameterStore& store, const std::vector<State*>& states) {
  std::map<std::string, Tensor> tensors;
  for (const FlatBuffer& buffer : store.buffers()) {
    if (mesh.replicas(buffer.kind).rank() != 0) continue;
    for (const auto& segment : buffer.segments) {
      for (const Slice& slice : segment.parameter->slices) {
        tensors[slice.name] = segment.parameter->value.row_range(slice.row, slice.rows);
      }
    }
  }
  if (mesh.rank() == 0) {
    for (const State* state : states) tensors[state->name] = state->value;
  }
  return tensors;
}

std::map<std::string, Tensor> optimizer_tensors(ShardedAdamW& optimizer) {
  std::map<std::string, Tensor> tensors;
  for (std::size_t b = 0; b < optimizer.shares().size(); ++b) {
    const auto& share = optimizer.shares()[b];
    tensors[fmt::format("{:04d}.first", b)] = share.first;
    tensors[fmt::format("{:04d}.second", b)] = share.second;
    tensors[fmt::format("{:04d}.master", b)] = share.master;
  }
  return tensors;
}

json read_json(const fs::path& path) {
  std::ifstream file(path);
  check_input(file.good(), "cannot read ", path.string(), "; a checkpoint is a folder such as RUN/checkpoints/step-00000100");
  json value = json::parse(file, nullptr, false);
  check_input(!value.is_discarded() && value.is_object(), "", path.string(), " is not a JSON object: the checkpoint is damaged");
  return value;
}

/// Where each tensor of a checkpoint is.
class ModelFiles {
 public:
  explicit ModelFiles(const fs::path& folder) : folder_(folder) {
    const json index = read_json(folder / "model.safetensors.index.json");
    check_input(index.contains("weight_map") && index["weight_map"].is_object(), "", (folder / "model.safetensors.index.json").string(),
                " has no weight_map");
    for (const auto& [name, file] : index["weight_map"].items()) {
      check_input(file.is_string(), "", (folder / "model.safetensors.index.json").string(), " names no file for ", name,
                  ": the checkpoint is damaged");
      where_[name] = file.get<std::string>();
    }
  }
  void read(const std::string& name, const Tensor& out) {
    const auto found = where_.find(name);
    check_input(found != where_.end(), "", folder_.string(), " has no tensor ", name, ": it was written by a model of another shape");
    auto& reader = readers_[found->second];
    if (!reader) reader = std::make_unique<SafetensorsReader>((folder_ / found->second).string());
    const SafetensorsEntry& entry = reader->entry(name);
    const Shape stored{std::span<const Index>(entry.shape)};
    check_input(stored == out.shape(), "tensor ", name, " of ", folder_.string(), " has shape ", stored, ", the configuration wants ",
                out.shape());
    reader->read_into(name, 0, out);
    read_.insert(name);
  }

 private:
  fs::path folder_;
  std::map<std::string, std::string> where_;
  std::map<std::string, std::unique_ptr<SafetensorsReader>> readers_;
  std::set<std::string> read_;
};

}  // namespace

std::string CheckpointWriter::save(Context& context, Mesh& mesh, ParameterStore& store, std::vector<State*> states, ShardedAdamW& optimizer,
                                   const TrainingState& state) {
  const Span span(context.profiler, "checkpoint");
  const fs::path final_folder = fs::path(settings_.folder) / step_name(state.step);
  const fs::path folder = final_folder.string() + ".tmp";
  const int parts = mesh.shape().expert;
  const auto together = [&](const std::function<void()>& body) {
    try {
      agree(mesh.world(), context.profiler, context.stream, body);
    } catch (const AgreedError&) {  // half a checkpoint would only keep a full disk full
      std::error_code ignored;
      if (mesh.rank() == 0) fs::remove_all(folder, ignored);
      throw;
    }
  };

  together([&] {
    if (mesh.rank() != 0) return;
    std::error_code error;
    fs::remove_all(folder, error);
    fs::create_directories(folder, error);
    check(!error, "cannot make the folder ", folder.string(), ": ", error.message());
  });
  together([&] {
    if (mesh.coordinate(Axis::data) == 0) {
      write_tensors(folder / model_file(mesh.coordinate(Axis::expert), parts), own_tensors(mesh, store, states));
    }
    write_tensors(folder / optimizer_file(mesh.rank(), mesh.size()), optimizer_tensors(optimizer));
  });
  together([&] {
    if (mesh.rank() != 0) return;
    json weight_map = json::object();
    std::uintmax_t total = 0;
    for (int part = 0; part < parts; ++part) {
      const SafetensorsReader reader((folder / model_file(part, parts)).string());
      for (const auto& entry : reader.entries()) {
        weight_map[entry.name] = model_file(part, parts);
        total += entry.end - entry.begin;
      }
    }
    write_text(folder / "model.safetensors.index.json",
               json{{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}}.dump(2) + "\n");
    write_text(folder / "config.textproto", settings_.config);
    for (const std::string& attachment : settings_.attachments) {
      fs::copy_file(attachment, folder / fs::path(attachment).filename(), fs::copy_options::overwrite_existing);
    }
    json files = json::object();
    for (const auto& file : fs::directory_iterator(folder)) files[file.path().filename().string()] = file.file_size();
    write_text(folder / "state.json", json{{"format_version", kFormatVersion},
                                           {"step", state.step},
                                           {"sequences_consumed", state.consumed},
                                           {"tokens", state.tokens},
                                           {"skipped_steps", state.skipped},
                                           {"mesh", {{"expert", state.mesh.expert}, {"data", state.mesh.data}}},
                                           {"precision", state.precision},
                                           {"files", files}}
                                              .dump(2) +
                                          "\n");
    sync_folder(folder);
    fs::remove_all(final_folder);
    fs::rename(folder, final_folder);
    sync_folder(settings_.folder);
    const fs::path latest = fs::path(settings_.folder) / "latest";
    write_text(latest.string() + ".tmp", final_folder.filename().string() + "\n");
    rename_file(latest.string() + ".tmp", latest.string());
    prune(state.step);
  });
  return final_folder.string();
}

void CheckpointWriter::prune(Index newest) const {
  std::vector<fs::path> complete;
  for (const auto& entry : fs::directory_iterator(settings_.folder)) {
    const std::string name = entry.path().filename().string();
    // Those of later steps are of another course that this run left by going back: they do not count, and they are not this run's to
    // remove.
    const bool own = name.starts_with("step-") && !name.ends_with(".tmp") && name <= step_name(newest);
    if (own) complete.push_back(entry.path());
  }
  std::sort(complete.begin(), complete.end());
  const auto keep = static_cast<std::size_t>(std::max<Index>(2, settings_.keep));
  for (std::size_t i = 0; i + keep < complete.size(); ++i) {
    const Index step = std::stoll(complete[i].filename().string().substr(5));
    if (settings_.keep_every > 0 && step % settings_.keep_every == 0) continue;
    fs::remove_all(complete[i]);
  }
}

std::string latest_checkpoint(const std::string& folder) {
  std::ifstream file(fs::path(folder) / "latest");
  std::string name;
  if (!(file >> name)) return {};
  const fs::path checkpoint = fs::path(folder) / name;
  check_input(fs::exists(checkpoint / "state.json"), "", folder, "/latest names ", name,
              ", which is no complete checkpoint: write the name of another one into it, or name that one instead of the run directory");
  return checkpoint.string();
}

std::string find_checkpoint(const std::string& path) {
  if (fs::exists(fs::path(path) / "state.json")) return path;
  for (const fs::path& folder : {fs::path(path) / "checkpoints", fs::path(path)}) {
    if (const std::string found = latest_checkpoint(folder.string()); !found.empty()) return found;
  }
  fail_input("there is no checkpoint in ", path, "; name a run directory or a folder such as RUN/checkpoints/step-00000100");
}

void load_model(Stream& stream, const std::string& folder, ParameterStore& store, std::vector<State*> states, ShardedAdamW* optimizer) {
  ModelFiles files{fs::path(folder)};
  for (std::size_t b = 0; b < store.buffers().size(); ++b) {
    const FlatBuffer& buffer = store.buffers()[b];
    // Read in f32 and rounded once into the value: masters keep what a checkpoint in f32 holds beyond bf16.
    const Tensor wide = buffer.value.dtype() == DType::f32 ? buffer.value : Tensor::zeros(stream, buffer.value.shape());
    for (const auto& segment : buffer.segments) {
      const Tensor values = wide.flat_range(segment.first, segment.parameter->shape);
      for (const Slice& slice : segment.parameter->slices) files.read(slice.name, values.row_range(slice.row, slice.rows));
    }
    if (wide.raw() != buffer.value.raw()) ops::copy_into(stream, wide, buffer.value);
    if (optimizer != nullptr && wide.raw() != buffer.value.raw()) {
      const Tensor& master = optimizer->shares()[b].master;
      ops::copy_into(stream, wide.row_range(optimizer->first(b), master.elements()), master);
    }
  }
  for (State* state : states) files.read(state->name, state->value);
  store.changed();
}

TrainingState load_state(const std::string& folder) {
  const json state = read_json(fs::path(folder) / "state.json");
  try {
    check_input(state.at("format_version").get<int>() == kFormatVersion, "", folder, " has format version ",
                state.at("format_version").dump(), "; this program reads ", kFormatVersion);
    for (const auto& [name, bytes] : state.at("files").items()) {
      std::error_code error;
      const auto size = fs::file_size(fs::path(folder) / name, error);
      check_input(!error && size == bytes.get<std::uintmax_t>(), "the checkpoint ", folder, " is damaged: ", name, " should have ",
                  bytes.get<std::uintmax_t>(), " bytes", error ? " and is missing" : fmt::format(" and has {}", size));
    }
    return {state.at("step"),
            state.at("sequences_consumed"),
            state.at("tokens"),
            state.at("skipped_steps"),
            {state.at("mesh").at("expert"), state.at("mesh").at("data")},
            state.at("precision")};
  } catch (const json::exception& error) {
    fail_input("", folder, "/state.json lacks a field or holds a wrong one: ", error.what());
  }
}

void load_optimizer(Stream& stream, const std::string& folder, Mesh& mesh, ShardedAdamW& optimizer) {
  const TrainingState state = load_state(folder);
  check_input(state.mesh.expert == mesh.shape().expert && state.mesh.data == mesh.shape().data, "the optimizer of ", folder,
              " was written with mesh.expert ", state.mesh.expert, " and mesh.data ", state.mesh.data, ", this run has ",
              mesh.shape().expert, " and ", mesh.shape().data,
              "; resume with the same mesh, or start from the weights with init.checkpoint");
  const SafetensorsReader reader((fs::path(folder) / optimizer_file(mesh.rank(), mesh.size())).string());
  for (const auto& [name, values] : optimizer_tensors(optimizer)) {
    check_input(reader.has(name) && reader.entry(name).elements() == values.elements(), "", reader.path(),
                " does not fit this model: ", name, " should have ", values.elements(), " values");
    reader.read_into(name, 0, values);
  }
  (void)stream;
}

}  // namespace yard
