#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "core/io/json.h"
#include "core/random.h"
#include "tests/support/support.h"

using namespace yard;
using namespace yard::test;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

namespace {

/// What everything here stands on: a text in tokens, and the configuration of a tiny model.
class VerifyLayout : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TemporaryFolder>();
    const Random random(7);
    std::ofstream text(*folder_ / "text.txt");
    const std::vector<std::string> words = {"the ", "router ", "sends ", "each ", "token ", "to ", "two ", "experts, ", "and home.\n"};
    for (std::uint64_t i = 0; i < 3000; ++i) text << words[random.bits(i) % words.size()];
    text.close();
    std::ofstream config(*folder_ / "tiny.textproto");
    config << "model { vocabulary: 257 width: 32 layers: 2 heads: 2 kv_heads: 1 experts: 4 top_k: 2 hidden: 32 }\n"
           << "data { train: \"" << *folder_ / "text"
           << "\" length: 32 global_batch: 8 }\n"
           << "optimizer { peak_rate: 3e-3 warmup_steps: 500 }\n";  // a warm-up that is longer than what is verified
    config.close();
    const auto made = run_command(std::string(YARD_BINARY) + " tokenize --text " + (*folder_ / "text.txt") + " --tokenizer bytes --out " +
                                  (*folder_ / "text"));
    ASSERT_EQ(made.code, 0) << made.err;
  }
  static void TearDownTestSuite() { folder_.reset(); }

  static CommandResult verify(const std::string& options, const std::string& before = "") {
    return run_command(before + " " + YARD_BINARY + " verify-layout --config " + (*folder_ / "tiny.textproto") + " " + options);
  }
  static void expect_agrees(const std::string& options) {
    const auto result = verify(options);
    EXPECT_EQ(result.code, 0) << result.out << result.err;
    EXPECT_THAT(result.out, AllOf(HasSubstr("The layouts agree"), Not(HasSubstr("differs"))));
  }
  /// A short run with an error planted: what it prints.
  static std::string caught(const std::string& error, const std::string& options) {
    const auto result = verify("--steps 5 " + options, "SWITCHYARD_PLANT=" + error);
    EXPECT_EQ(result.code, 1) << result.out << result.err;
    EXPECT_THAT(result.out, AllOf(HasSubstr("The layouts do not agree"), Not(HasSubstr("again:"))));
    // The same configuration without it: what is caught is the planted error.
    const auto clean = verify("--steps 5 " + options);
    EXPECT_EQ(clean.code, 0) << clean.out << clean.err;
    return result.out;
  }

  static std::unique_ptr<TemporaryFolder> folder_;
};
std::unique_ptr<TemporaryFolder> VerifyLayout::folder_;

}  // namespace

/// Rows are rounded alike in every layout; only what the update brings to bf16 may fall on the other side.
TEST_F(VerifyLayout, Bf16Agrees) { expect_agrees("--layouts 1x1,2x1,2x2 --set run.precision=bf16"); }

TEST_F(VerifyLayout, AllLayoutsAgreeWithEverythingOnThatCouldDependOnThem) {
  const std::string numbers = *folder_ / "all.json";
  expect_agrees(
      "--json " + numbers +
      " --set model.router.capacity_factor=1.0 --set model.router.jitter=0.1 --set model.dropout=0.1 --set model.expert_dropout=0.1 "
      "--set data.accumulate=2 --set model.shared_experts=1 --set model.shared_gate=true");
  std::ifstream stream(numbers);
  const json report = parse_json(stream);
  EXPECT_EQ(report.at("agrees"), true);
  EXPECT_EQ(report.at("layouts").size(), 7U);  // the first one twice
  for (const json& layout : report.at("layouts")) EXPECT_EQ(layout.at("curve").size(), 20U);
  // It did train, it did drop nothing else than what it says, and the numbers are those of another layout, not a copy of the first's.
  const json& first = report.at("layouts").at(0).at("curve");
  EXPECT_LT(first.back().at("loss"), 0.95 * first.front().at("loss").get<double>());
  EXPECT_GT(report.at("layouts").at(4).at("loss").at("difference"), 0);
}

TEST_F(VerifyLayout, OtherLossesAndARecomputedPassAgree) {
  expect_agrees("--layouts 1x1,2x1,1x2 --steps 6 --set losses.convention=huggingface --set data.accumulate=2");
  expect_agrees("--layouts 2x2,4x1,1x1 --steps 6 --set losses.scope=sequence --set data.document_mask=true --set model.recompute=full");
}

TEST_F(VerifyLayout, CatchesAFactorOnExpertGradients) {
  const std::string out = caught("expert_gradient_factor", "--layouts 1x1,2x1");
  EXPECT_THAT(out, AllOf(HasSubstr("2x1: the norm of the expert gradients differs"), HasSubstr("experts."),
                         Not(HasSubstr("dense gradients differs"))));
}

TEST_F(VerifyLayout, CatchesABalanceGradientScaledByTheDataDegree) {
  EXPECT_THAT(caught("balance_by_data_degree", "--layouts 1x1,1x2"), HasSubstr("1x2: the norm of the router gradients differs"));
}

TEST_F(VerifyLayout, CatchesInitialValuesThatDependOnTheRank) {
  EXPECT_THAT(caught("rank_initial_values", "--layouts 1x1,2x1"),
              AllOf(HasSubstr("2x1: the norm of the expert gradients differs"), HasSubstr("2x1: the loss differs at step 1")));
}

TEST_F(VerifyLayout, CatchesNoiseThatDependsOnTheRank) {
  EXPECT_THAT(caught("rank_noise", "--layouts 1x1,1x2 --set model.router.jitter=0.1"),
              HasSubstr("routed otherwise at step 1 in MoE layer 0"));
}

TEST_F(VerifyLayout, CatchesADataOrderThatDependsOnTheRank) {
  EXPECT_THAT(caught("rank_data_order", "--layouts 1x1,1x2"), HasSubstr("1x2: the loss differs at step 1"));
}

TEST_F(VerifyLayout, CatchesReplicasCountedTwiceInTheNorm) {
  EXPECT_THAT(caught("replicas_twice_in_norm", "--layouts 1x1,1x2"),
              AllOf(HasSubstr("1x2: the norm of the dense gradients differs"), HasSubstr("1x2: the norm of the expert gradients differs"),
                    Not(HasSubstr("the gradient of"))));
}

TEST_F(VerifyLayout, CatchesAnEmptyExpertThatIsNotStepped) {
  const std::string few =
      " --set data.length=8 --set data.global_batch=4 --set model.experts=16 --set model.top_k=1 --set optimizer.peak_rate=1e-2";
  for (const std::string layout : {"2x1", "1x2"}) {
    EXPECT_THAT(caught("skip_empty_expert", "--layouts 1x1," + layout + few),
                AllOf(HasSubstr(layout + ": the balance loss differs"), Not(HasSubstr("gradients differs at step 1"))));
  }
}

TEST_F(VerifyLayout, WrongUseIsOneSentence) {
  const auto expect_refused = [](const CommandResult& result, const std::string& says) {
    EXPECT_EQ(result.code, 2) << result.out;
    EXPECT_THAT(result.err, HasSubstr(says));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  };
  expect_refused(verify("--layouts 1x1,3x1"), "layout 3x1: model.experts is 4");
  expect_refused(verify("--layouts 1x1,1x3"), "layout 1x3: data.global_batch is 8");
  expect_refused(verify("--layouts 1x1,2y1"), "--layouts has '2y1'");
  expect_refused(verify("--layouts 0x1"), "--layouts has '0x1'");
  expect_refused(verify("--steps 0"), "--steps must be at least 1");
  expect_refused(verify("--layouts 1x1 --set data.train=" + (*folder_ / "none")), "layout 1x1: cannot read");
  expect_refused(verify("--layouts 2x1", "SWITCHYARD_PLANT=nothing"), "layout 2x1: SWITCHYARD_PLANT is 'nothing'");
  expect_refused(verify("", std::string(YARD_MPIRUN) + " -q -np 2"), "verify-layout starts mpirun itself");
}

TEST_F(VerifyLayout, AFailedRunGivesItsOwnSentence) {
  const auto result = verify("--layouts 1x1 --steps 3 --set optimizer.peak_rate=1e30");
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("layout 1x1:"), HasSubstr("not a finite number at step")));
}

TEST_F(VerifyLayout, KeepsWhatRunsComputed) {
  const auto result = verify("--layouts 1x1 --steps 2 --keep " + (*folder_ / "kept"));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("1x1 again"));
  EXPECT_TRUE(std::filesystem::exists(*folder_ / "kept/reference/rank-0.jsonl"));
  EXPECT_TRUE(std::filesystem::exists(*folder_ / "kept/again/rank-0.routing"));
  EXPECT_THAT(verify("--layouts 1x1 --steps 2 --keep " + (*folder_ / "kept")).err, HasSubstr("is not empty"));
}
