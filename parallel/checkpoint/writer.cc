#include "parallel/checkpoint/writer.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <atomic>
#include <filesystem>

#include "comm/agree.h"
#include "comm/text.h"
#include "core/io/file.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "parallel/checkpoint/contents.h"

namespace yard {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

YARD_PHASE kCheckpoint{"checkpoint"};
YARD_COLLECTIVE kFiles{"checkpoint"};

json file_entry(const std::string& name, std::uint64_t size, std::uint32_t checksum) {
  return {{"name", name}, {"size", size}, {"crc32c", checksum}};
}

json write_text(const fs::path& path, const std::string& text) {
  FileWriter file(path.string());
  file.write(text);
  file.finish();
  return file_entry(path.filename().string(), file.written(), file.checksum());
}

/// Where this rank's files come among those of all ranks.
struct Numbering {
  std::int64_t first = 0, all = 0;
};
Numbering number_files(Communicator& control, std::size_t mine) {
  Stream stream{Device{}};
  const Tensor count = Tensor::of<std::int64_t>(stream, {1}, std::vector<std::int64_t>{static_cast<std::int64_t>(mine)});
  const Tensor counts(stream, {control.size()}, DType::i64);
  control.all_gather(stream, {kFiles}, count, counts).wait(stream);
  Numbering result;
  for (int rank = 0; rank < control.size(); ++rank) {
    const std::int64_t each = counts.values<std::int64_t>()[static_cast<std::size_t>(rank)];
    if (rank < control.rank()) result.first += each;
    result.all += each;
  }
  return result;
}

}  // namespace

/// A checkpoint from its contents to its commit.
struct CheckpointWriter::Job {
  std::string path;  // STEP.tmp
  CheckpointState state;
  std::vector<std::pair<std::string, FileContents>> files;  // of this rank
  json report = {{"files", json::array()}, {"weights", json::object()}, {"bytes", 0}, {"optimizer", json::array()}};
  std::thread thread;
  std::atomic<bool> written = false;
  std::exception_ptr failure;

  ~Job() {
    if (thread.joinable()) thread.join();
  }
  void add(std::vector<FileContents> parts, const std::string& kind, const Numbering& numbers, bool weights) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const std::string name =
          fmt::format("{}-{:05d}-of-{:05d}.safetensors", kind, numbers.first + static_cast<std::int64_t>(i) + 1, numbers.all);
      for (const FileTensor& tensor : parts[i]) {
        if (!weights) continue;
        report["weights"][tensor.entry.name] = name;
        report["bytes"] = report["bytes"].get<std::uint64_t>() + tensor.values.bytes();
      }
      files.emplace_back(name, std::move(parts[i]));
    }
  }
  /// Where each parameter's piece went, once the files have names.
  void add(const std::vector<OwnPiece>& pieces) {
    std::map<std::string, std::string> where;
    for (const auto& [name, contents] : files) {
      for (const FileTensor& tensor : contents) where[tensor.entry.name] = name;
    }
    for (const OwnPiece& piece : pieces) {
      json place = {{"parameter", piece.name}, {"first", piece.first}, {"count", piece.count}, {"whole", piece.whole()}};
      // A piece's tensors may lie in two files where one is full: each kind has its own.
      for (const char* kind : {"exp_avg", "exp_avg_sq", "master"}) {
        if (const auto found = where.find(piece.key(kind)); found != where.end()) place["files"][kind] = found->second;
      }
      report["optimizer"].push_back(std::move(place));
    }
  }
  /// Copies to host memory of our own what lies on a GPU, and, where training goes on meanwhile, what it would change.
  void take_along(Stream& stream, bool training_goes_on) {
    for (auto& [name, contents] : files) {
      for (FileTensor& tensor : contents) {
        if (tensor.values.device().type == DeviceType::cpu && (tensor.own || !training_goes_on)) continue;
        const Tensor copy = Tensor::on_host(stream, tensor.values.shape(), tensor.values.dtype());
        stream.copy(copy.raw(), tensor.values.raw(), copy.bytes());
        tensor.values = copy;
      }
    }
    stream.synchronize();
  }
  void write() noexcept {
    try {
      for (const auto& [name, contents] : files) {
        std::vector<SafetensorsEntry> entries;
        for (const FileTensor& tensor : contents) entries.push_back(tensor.entry);
        SafetensorsWriter writer(path + "/" + name, std::move(entries));
        for (const FileTensor& tensor : contents) writer.write(tensor.values);
        writer.finish();
        report["files"].push_back(file_entry(name, writer.written(), writer.checksum()));
      }
    } catch (...) {
      failure = std::current_exception();
    }
    written.store(true, std::memory_order_release);
  }
};

CheckpointWriter::CheckpointWriter(Settings settings) : settings_(std::move(settings)) {}
CheckpointWriter::~CheckpointWriter() = default;

bool CheckpointWriter::written() const noexcept { return job_ == nullptr || job_->written.load(std::memory_order_acquire); }

void CheckpointWriter::save(Context& context, Mesh& mesh, ParameterStore& store, const std::vector<State*>& states, ShardedAdamW& optimizer,
                            CheckpointState state) {
  finish(context, mesh);
  const Span span(context.profiler, kCheckpoint);
  auto job = std::make_unique<Job>();
  job->path = settings_.folder + "/" + checkpoint_name(state.step()) + ".tmp";
  state.set_weights(settings_.wide ? "f32" : state.precision());
  job->state = std::move(state);
  agree(mesh.control(), [&] {
    if (mesh.rank() == 0) begin_checkpoint(settings_.folder, job->state.step());
  });
  std::vector<OwnPiece> pieces;
  FileContents contents = model_contents(context, mesh, store, states, optimizer, settings_.wide);
  for (FileTensor& tensor : contents) tensor.entry.name = settings_.names.stored(tensor.entry.name);
  auto model = split_into_files(std::move(contents), settings_.largest_file);
  auto moments = split_into_files(optimizer_contents(mesh, store, optimizer, pieces), settings_.largest_file);
  const Numbering model_numbers = number_files(mesh.control(), model.size());
  const Numbering moment_numbers = number_files(mesh.control(), moments.size());
  job->add(std::move(model), "model", model_numbers, true);
  job->add(std::move(moments), "optimizer", moment_numbers, false);
  job->add(pieces);
  job_ = std::move(job);
  job_->take_along(context.stream, settings_.background);
  if (!settings_.background) {
    job_->write();
    finish(context, mesh);
    return;
  }
  job_->thread = std::thread([job = job_.get()] {
    // On Linux this is the priority of the thread alone: training goes first where cores are few.
    ::setpriority(PRIO_PROCESS, 0, 19);
    job->write();
  });
}

void CheckpointWriter::finish(Context& context, Mesh& mesh) {
  if (!job_) return;
  const Span span(context.profiler, kCheckpoint);
  if (job_->thread.joinable()) job_->thread.join();
  const auto together = [&](const std::function<void()>& body) {
    try {
      agree(mesh.control(), body);
    } catch (const AgreedError&) {  // half a checkpoint would only keep a full disk full
      std::error_code ignored;
      if (mesh.rank() == 0) fs::remove_all(job_->path, ignored);
      job_.reset();
      throw;
    }
  };
  together([&] {
    if (job_->failure) std::rethrow_exception(job_->failure);
  });
  const auto reports = gather_texts(mesh.control(), job_->report.dump());
  together([&] {
    if (mesh.rank() == 0) commit(reports);
  });
  newest_ = settings_.folder + "/" + checkpoint_name(job_->state.step());
  job_.reset();
}

void CheckpointWriter::commit(const std::vector<std::string>& reports) {
  const fs::path folder = job_->path;
  CheckpointState& state = job_->state;
  json files = json::array();
  json weights = json::object();
  std::uint64_t bytes = 0;
  for (const std::string& text : reports) {
    const json report = parse_json(text);
    for (const json& file : report["files"]) files.push_back(file);
    weights.update(report["weights"]);
    bytes += report["bytes"].get<std::uint64_t>();
    for (const json& place : report["optimizer"]) {
      auto& piece = *state.add_optimizer();
      piece.set_parameter(place["parameter"]);
      piece.set_first(place["first"]);
      piece.set_count(place["count"]);
      piece.set_whole(place["whole"]);
      for (const auto& [kind, file] : place["files"].items()) (*piece.mutable_files())[kind] = file;
    }
  }
  files.push_back(write_text(folder / "model.safetensors.index.json",
                             json{{"metadata", {{"total_size", bytes}}}, {"weight_map", weights}}.dump(2) + "\n"));
  for (const auto& [name, text] : settings_.texts) files.push_back(write_text(folder / name, text));
  for (const json& file : files) {
    auto& entry = *state.add_files();
    entry.set_name(file["name"]);
    entry.set_size(file["size"]);
    entry.set_crc32c(file["crc32c"]);
  }
  write_text(folder / "state.json", to_json(state));
  commit_checkpoint(settings_.folder, state.step());
  prune_checkpoints(settings_.folder, settings_.keep, settings_.keep_every);
}

}  // namespace yard
