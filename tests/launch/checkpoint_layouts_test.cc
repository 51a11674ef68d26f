#include <omp.h>

#include <filesystem>

#include "core/io/safetensors.h"
#include "launch/config_rules.h"
#include "parallel/checkpoint/folder.h"
#include "parallel/checkpoint/reader.h"
#include "tests/support/cluster.h"

namespace yard {
namespace {

using namespace test;

constexpr const char* kBase =
    "run { seed: 5 steps: 12 } init { deviation: 0.2 } optimizer { warmup_steps: 2 peak_rate: 0.01 } "
    "data { length: 12 global_batch: 8 accumulate: 2 } "
    "model { vocabulary: 25 width: 12 layers: 2 heads: 2 kv_heads: 1 experts: 4 top_k: 2 hidden: 10 dropout: 0.1 router { jitter: 0.1 } } ";

using Values = std::map<std::string, std::vector<double>>;

/// All tensors of a checkpoint's files, pieces of the optimizer's joined by what state.json says.
Values contents_of(const std::string& folder) {
  Values all;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("model-")) continue;
    const SafetensorsReader reader(entry.path().string());
    for (const auto& tensor : reader.entries()) {
      EXPECT_FALSE(all.contains(tensor.name)) << tensor.name << " lies in two files";
      all[tensor.name] = to_f64(reader.read(cpu(), tensor.name, DType::f32));
    }
  }
  const CheckpointState state = read_state(folder);
  for (const auto& piece : state.optimizer()) {
    for (const auto& [kind, file] : piece.files()) {
      const std::string key = kind + "." + piece.parameter();
      auto& values = all[key];
      const auto end = static_cast<std::size_t>(piece.first() + piece.count());
      if (values.size() < end) values.resize(end, std::nan(""));
      const SafetensorsReader reader(folder + "/" + file);
      const auto part = to_f64(reader.read(cpu(), key + (piece.whole() ? "" : "::" + std::to_string(piece.first())), DType::f32));
      EXPECT_EQ(part.size(), static_cast<std::size_t>(piece.count())) << key;
      for (std::size_t i = 0; i < part.size(); ++i) {
        EXPECT_TRUE(std::isnan(values[static_cast<std::size_t>(piece.first()) + i])) << key << " has a value twice";
        values[static_cast<std::size_t>(piece.first()) + i] = part[i];
      }
    }
  }
  for (const auto& [name, values] : all) {
    for (const double value : values) EXPECT_FALSE(std::isnan(value)) << name << " is not complete";
  }
  return all;
}

struct Saved {
  std::string folder;
  double next_loss = 0;
};

/// Trains two steps from nothing or goes on from a checkpoint, saves, and takes one step more.
Saved save_in(MeshShape shape, const RunConfig& config, const std::string& from, const std::string& into,
              const std::function<void(CheckpointWriter::Settings&)>& change = {}) {
  const auto data = small_text(4000, 24);
  Saved saved;
  run_local_world(shape.ranks(), [&](Communicator& world) {
    omp_set_num_threads(1);
    TrainerRig trainer(world, config, data, shape);
    if (from.empty()) {
      trainer->step();
      trainer->step();
    } else {
      trainer->resume(from);
    }
    CheckpointWriter::Settings settings = writer_settings(into, config);
    if (change) change(settings);
    CheckpointWriter writer(settings);
    trainer->save(writer);
    const double loss = trainer->step().loss;  // while files may still be written
    trainer->finish(writer);
    if (world.rank() == 0) saved = {writer.newest(), loss};
  });
  return saved;
}

class AnyLayout : public testing::TestWithParam<bool> {};

TEST_P(AnyLayout, ReadsWhatAnotherWrote) {
  RunConfig config = config_of(kBase);
  if (GetParam()) config.mutable_run()->set_precision(RunConfig::Precision::bf16);
  const TemporaryFolder folder;
  for (const MeshShape written : {MeshShape{2, 1}, MeshShape{2, 2}}) {
    const std::string name = std::to_string(written.expert) + "x" + std::to_string(written.data);
    const Saved first = save_in(written, config, "", folder / name);
    const Values expected = contents_of(first.folder);
    EXPECT_EQ(expected.contains("master.model.layers.0.self_attn.q_proj.weight"), GetParam());
    for (const MeshShape shape : {MeshShape{1, 1}, MeshShape{1, 2}, MeshShape{4, 1}, MeshShape{2, 2}, MeshShape{1, 4}, MeshShape{2, 1}}) {
      SCOPED_TRACE(name + " read in " + std::to_string(shape.expert) + "x" + std::to_string(shape.data));
      const Saved again = save_in(shape, config, first.folder, folder / (name + "-in"));
      EXPECT_NEAR(again.next_loss, first.next_loss, GetParam() ? 1e-4 : 1e-6 * first.next_loss);
      EXPECT_EQ(contents_of(again.folder), expected);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Precisions, AnyLayout, testing::Bool());

TEST(Checkpoint, WrittenInTheBackgroundHoldsTheStateAtTheSave) {
  const RunConfig config = config_of(kBase);
  const TemporaryFolder folder;
  for (const MeshShape shape : {MeshShape{1, 1}, MeshShape{2, 2}}) {
    const Saved plain = save_in(shape, config, "", folder / "plain");
    const Saved background = save_in(shape, config, "", folder / "background", [](auto& settings) { settings.background = true; });
    EXPECT_EQ(contents_of(background.folder), contents_of(plain.folder));
    EXPECT_EQ(background.next_loss, plain.next_loss);
    EXPECT_EQ(damage_of(background.folder, read_state(background.folder), true), "");
  }
}

TEST(Checkpoint, WideWeightsAreTheMasters) {
  RunConfig config = config_of(kBase);
  config.mutable_run()->set_precision(RunConfig::Precision::bf16);
  const TemporaryFolder folder;
  const Saved wide = save_in({2, 2}, config, "", folder / "wide", [](auto& settings) { settings.wide = true; });
  const Values values = contents_of(wide.folder);
  std::size_t masters = 0;
  for (const auto& [name, master] : values) {
    if (!name.starts_with("master.")) continue;
    ++masters;
    EXPECT_EQ(values.at(name.substr(7)), master) << name;
  }
  EXPECT_GT(masters, 20U);
  const Saved again = save_in({1, 1}, config, wide.folder, folder / "again", [](auto& settings) { settings.wide = true; });
  EXPECT_EQ(contents_of(again.folder), values);
}

TEST(Checkpoint, FilesAreOfABoundedSize) {
  const RunConfig config = config_of(kBase);
  const TemporaryFolder folder;
  const Saved small = save_in({2, 1}, config, "", folder / "small", [](auto& settings) { settings.largest_file = 2000; });
  const Saved whole = save_in({2, 1}, config, "", folder / "whole");
  EXPECT_EQ(contents_of(small.folder), contents_of(whole.folder));
  Index files = 0;
  const CheckpointState state = read_state(small.folder);
  for (const auto& file : state.files()) {
    if (!file.name().ends_with(".safetensors")) continue;
    ++files;
    EXPECT_LT(file.size(), 4000) << file.name();  // 2000 of data and the header
  }
  EXPECT_GT(files, 10);
}

/// A model whose experts have a state of their own: a number each, in a sequence that starts from `start`.
class WithExpertStates {
 public:
  WithExpertStates(Communicator& world, RunConfig config, MeshShape shape, float start) : rank_(world) {
    config.mutable_mesh()->set_expert(shape.expert);
    config.mutable_mesh()->set_data(shape.data);
    config = resolve(config, shape.ranks());
    experts_ = config.model().experts();
    mesh_ = rank_.runtime.make_mesh(config.mesh());
    model_ = build_model(config, *mesh_, cpu(), DType::f32);
    model_.allocate(cpu(), *mesh_, true);
    model_.parameters->initialise(cpu(), 1);
    gradients_ = std::make_unique<GradientReducer>(*model_.parameters, *mesh_);
    optimizer_ = std::make_unique<ShardedAdamW>(cpu(), *model_.parameters, *mesh_, *gradients_, ShardedAdamW::Settings(), 1);
    const Index local = experts_ / shape.expert;
    for (Index e = local * mesh_->coordinate(Axis::expert); static_cast<Index>(states_.size()) < local; ++e) {
      const Tensor value = tensor_of({1}, std::vector<float>{start + static_cast<float>(e)});
      states_.push_back({"model.layers.0.block_sparse_moe.experts." + std::to_string(e) + ".seen", value, ParamKind::expert});
    }
    for (State& state : states_) pointers_.push_back(&state);
  }
  std::string save(CheckpointWriter& writer) {
    const Tokens none;
    Context context{cpu(), rank_.runtime.profiler, none};
    CheckpointState state;
    state.set_precision("f32");
    writer.save(context, *mesh_, *model_.parameters, pointers_, *optimizer_, state);
    writer.finish(context, *mesh_);
    return writer.newest();
  }
  void load(const std::string& folder) { load_model(cpu(), folder, *model_.parameters, pointers_, experts_, false, nullptr); }
  const std::vector<State>& states() const { return states_; }

 private:
  Rank rank_;
  Index experts_ = 0;
  std::unique_ptr<Mesh> mesh_;
  Model model_;
  std::unique_ptr<GradientReducer> gradients_;
  std::unique_ptr<ShardedAdamW> optimizer_;
  std::vector<State> states_;
  std::vector<State*> pointers_;
};

TEST(Checkpoint, StatesOfExpertsAreSavedByTheirOwnersAndReadInAnyLayout) {
  const RunConfig config = config_of(kBase);
  const TemporaryFolder folder;
  std::string checkpoint;
  run_local_world(4, [&](Communicator& world) {
    omp_set_num_threads(1);
    const bool root = world.rank() == 0;
    WithExpertStates model(world, config, {2, 2}, 10);
    CheckpointWriter writer(writer_settings(folder.path(), config));
    const std::string written = model.save(writer);
    if (root) checkpoint = written;
  });
  for (const MeshShape shape : {MeshShape{1, 1}, MeshShape{4, 1}}) {
    run_local_world(shape.ranks(), [&](Communicator& world) {
      omp_set_num_threads(1);
      WithExpertStates model(world, config, shape, 0);
      model.load(checkpoint);
      for (const State& state : model.states()) {
        const std::string expert = state.name.substr(state.name.find("experts.") + 8, 1);
        EXPECT_EQ(to_f64(state.value)[0], 10 + std::stod(expert)) << state.name;
      }
    });
  }
}

TEST(Checkpoint, OlderOnesArePrunedAndMilestonesKept) {
  const RunConfig config = config_of(kBase);
  const TemporaryFolder folder;
  const auto data = small_text(4000, 24);
  TrainerRig trainer(config, data);
  CheckpointWriter::Settings settings = writer_settings(folder.path(), config);
  settings.keep = 2;
  settings.keep_every = 4;
  CheckpointWriter writer(settings);
  for (int step = 0; step < 7; ++step) {
    trainer->step();
    trainer->save(writer);
  }
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) names.insert(entry.path().filename().string());
  EXPECT_EQ(names, (std::set<std::string>{"latest", "step-00000004", "step-00000006", "step-00000007"}));
  EXPECT_EQ(latest_checkpoint(folder.path()), folder / "step-00000007");
}

}  // namespace
}  // namespace yard
