#include "tests/support/cluster.h"

#include <omp.h>

#include "launch/config_rules.h"
#include "parallel/checkpoint/hugging_face.h"

namespace yard::test {

std::shared_ptr<const TokenStream> small_text(Index tokens, int vocabulary) {
  std::vector<std::int32_t> ids;
  const Random random(4711);
  int last = 0;
  for (Index i = 0; i < tokens; ++i) {
    const std::uint64_t draw = random.bits(static_cast<std::uint64_t>(i));
    last = draw % 3 == 0 ? static_cast<int>(draw / 3 % static_cast<std::uint64_t>(vocabulary)) : (last * 5 + 1) % vocabulary;
    ids.push_back(last);
  }
  return std::make_shared<TokenStream>(std::move(ids), "small text");
}

TrainerRig::TrainerRig(Communicator& world, const RunConfig& unresolved, std::shared_ptr<const TokenStream> data, MeshShape shape,
                       const RouterTable& routers, TrainHooks hooks)
    : rank_(world) {
  make(unresolved, std::move(data), shape, routers, std::move(hooks));
}

TrainerRig::TrainerRig(const RunConfig& unresolved, std::shared_ptr<const TokenStream> data, const RouterTable& routers, TrainHooks hooks) {
  make(unresolved, std::move(data), {}, routers, std::move(hooks));
}

void TrainerRig::make(const RunConfig& unresolved, std::shared_ptr<const TokenStream> data, MeshShape shape, const RouterTable& routers,
                      TrainHooks hooks) {
  config_ = unresolved;
  config_.mutable_mesh()->set_expert(shape.expert);
  config_.mutable_mesh()->set_data(shape.data);
  config_ = resolve(config_, shape.ranks(), routers);
  mesh_ = rank_.runtime.make_mesh(config_.mesh());
  const DType compute = config_.run().precision() == RunConfig::Precision::bf16 ? DType::bf16 : DType::f32;
  trainer_ = std::make_unique<Trainer>(rank_.runtime, *mesh_, config_, compute, std::move(data), -1, std::move(hooks), routers);
}

std::map<std::string, std::vector<double>> TrainerRig::values() {
  std::map<std::string, std::vector<double>> result;
  for (auto& buffer : trainer_->model().parameters->buffers()) {
    for (auto& segment : buffer.segments) {
      for (const Slice& slice : segment.parameter->slices)
        result[slice.name] = to_f64(segment.parameter->value.row_range(slice.row, slice.rows));
    }
  }
  return result;
}

CheckpointWriter::Settings writer_settings(const std::string& folder, const RunConfig& config, const RouterTable& routers) {
  CheckpointWriter::Settings settings;
  settings.folder = folder;
  const RunConfig resolved = resolve(config, 1, routers);
  settings.names = names_of_model(resolved);
  settings.texts = hugging_face_configs(resolved, DType::f32, 0);
  return settings;
}

LayoutRun run_layout(const RunConfig& unresolved, const std::shared_ptr<const TokenStream>& data, MeshShape shape, Index steps) {
  std::vector<LayoutRun> of_rank(static_cast<std::size_t>(shape.ranks()));
  run_local_world(shape.ranks(), [&](Communicator& world) {
    omp_set_num_threads(1);
    TrainerRig trainer(world, unresolved, data, shape);
    LayoutRun& mine = of_rank.at(static_cast<std::size_t>(world.rank()));
    for (Index step = 0; step < steps; ++step) mine.steps.push_back(trainer->step());
    mine.values = trainer.values();
  });
  LayoutRun all = of_rank.front();
  for (const LayoutRun& rank : of_rank) {
    for (const auto& [name, values] : rank.values) {
      const auto [at, fresh] = all.values.emplace(name, values);
      check(fresh || at->second == values, "replicas of ", name, " ended with different values");
    }
    for (std::size_t i = 0; i < rank.steps.size(); ++i) check(rank.steps[i].loss == all.steps[i].loss, "ranks report different losses");
  }
  return all;
}

}  // namespace yard::test
