#include <omp.h>

#include <fstream>

#include "core/data/tokenizer.h"
#include "launch/config_reader.h"
#include "tests/support/cluster.h"

namespace yard {
namespace {

using namespace test;

/// The program itself: greedy text is the same on one rank and on two that share the experts.
TEST(Generate, GreedyTokensAreEqualOnOneAndTwoRanks) {
  omp_set_num_threads(1);  // as the program below
  const RunConfig config = config_of(
      "run { seed: 5 steps: 40 } init { deviation: 0.1 } optimizer { warmup_steps: 2 peak_rate: 0.02 schedule: constant } "
      "data { length: 24 global_batch: 8 } "
      "model { vocabulary: 257 width: 16 layers: 2 heads: 2 experts: 4 top_k: 2 hidden: 12 positions: 40 }");
  std::vector<std::int32_t> ids;
  const auto tokenizer = byte_tokenizer();
  for (int i = 0; i < 120; ++i)
    tokenizer->encode(i % 3 == 0 ? "the expert chooses " : i % 3 == 1 ? "a token travels " : "home again it comes ", ids);
  const TemporaryFolder folder;
  std::string where;
  {
    TrainerRig trainer(config, std::make_shared<TokenStream>(ids, "three phrases"));
    while (trainer->steps_done() < 40) trainer->step();
    CheckpointWriter writer(writer_settings(folder.path(), config));
    trainer->save(writer);
    where = writer.newest();
  }
  std::ofstream(folder / "prompts") << "the exp\na\nhome again it\n";
  const std::string arguments = std::string(YARD_BINARY) + " generate --checkpoint " + where + " --prompts " + (folder / "prompts") +
                                " --temperature 0 --tokens 20 --set run.threads=1";
  const CommandResult alone = run_command(arguments);
  ASSERT_EQ(alone.code, 0) << alone.err;
  EXPECT_GT(alone.out.size(), 60U) << alone.out;
  const CommandResult two = run_command(std::string(YARD_MPIRUN) + " -q -np 2 " + arguments);
  ASSERT_EQ(two.code, 0) << two.err;
  EXPECT_EQ(two.out, alone.out);
  const CommandResult batches = run_command(arguments + " --batch 1");
  EXPECT_EQ(batches.out, alone.out) << "what stands beside a line changes nothing";
}

}  // namespace
}  // namespace yard
