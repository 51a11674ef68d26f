#include "launch/checkpoint_config.h"

#include <fstream>

#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "tests/support/support.h"

using namespace yard;

namespace {
namespace fs = std::filesystem;

/// A run that starts from Mixtral's tiny fixture, whose router adds noise, with the router of `kind`, or the checkpoint's where it is
/// empty.
RunConfig started_from_mixtral(const std::string& folder, const std::string& kind) {
  const std::string fixture = std::string(YARD_FIXTURES) + "/mixtral_tiny.safetensors";
  nlohmann::json config = parse_json(SafetensorsReader(fixture).metadata().at("config"));
  config["router_jitter_noise"] = 0.25;
  std::ofstream(folder + "/config.json") << config.dump();
  fs::copy_file(fixture, folder + "/model.safetensors");
  RunConfig given;
  given.mutable_init()->set_checkpoint(folder);
  if (!kind.empty()) given.mutable_model()->mutable_router()->set_kind(kind);
  given.mutable_model()->mutable_router()->set_scale(2.5);
  return with_initial_checkpoint(given);
}

TEST(CheckpointConfig, TheSameRouterKeepsTheSettingsOfTheCheckpoint) {
  for (const char* kind : {"", "softmax_top_k"}) {
    const test::TemporaryFolder folder;
    const RunConfig config = started_from_mixtral(folder.path(), kind);
    EXPECT_EQ(config.model().router().jitter(), 0.25);
    EXPECT_EQ(config.model().router().scale(), 2.5);
  }
}

TEST(CheckpointConfig, AnotherRouterTakesNoneOfThem) {
  const test::TemporaryFolder folder;
  const RunConfig config = started_from_mixtral(folder.path(), "sigmoid_top_k");
  EXPECT_EQ(config.model().router().kind(), "sigmoid_top_k");
  EXPECT_FALSE(config.model().router().has_jitter());
  EXPECT_EQ(config.model().router().scale(), 2.5);
  EXPECT_EQ(config.model().experts(), 4);
}
}  // namespace
