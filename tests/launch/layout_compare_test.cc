#include "launch/layout_compare.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/support/support.h"

using namespace yard;
using namespace yard::test;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

namespace {

/// Three steps of a run with one MoE layer of four experts, 1000 tokens to each.
std::vector<ProbeStep> run() {
  std::vector<ProbeStep> steps;
  for (Index i = 1; i <= 3; ++i) {
    ProbeStep step;
    step.step = i;
    step.loss = 5.0 - 0.1 * static_cast<double>(i);
    step.balance_loss = 1.01;
    step.norms = {std::sqrt(1.0 + 0.01 + 0.25), 1.0, 0.1, 0.5};
    step.tokens_per_expert = {{1000, 1000, 1000, 1000}};
    step.gradients["a"] = {0.3, 1.0, 400};
    step.gradients["cancels"] = {1e-9, 0.04, 100};
    steps.push_back(step);
  }
  return steps;
}

/// Rows with as many experts each.
RoutingBlock block(Index step, Index micro, Index layer, Index first_row, std::vector<std::int32_t> experts, std::vector<float> margins) {
  const auto rows = static_cast<Index>(margins.size());
  std::vector<std::int32_t> tokens;
  for (std::size_t slot = 0; slot < experts.size(); ++slot)
    tokens.push_back(static_cast<std::int32_t>(slot / (experts.size() / margins.size())));
  return {step, micro, layer, first_row, rows, std::move(tokens), std::move(experts), std::move(margins)};
}

void write(const std::string& folder, int rank, const std::vector<RoutingBlock>& blocks) {
  ProbeWriter writer(folder, rank);
  for (const RoutingBlock& each : blocks) writer.write(each);
  writer.finish();
}

std::optional<RoutingFlip> flip_between(const std::vector<RoutingBlock>& a, const std::vector<RoutingBlock>& b) {
  const TemporaryFolder one;
  const TemporaryFolder other;
  write(one.path(), 0, a);
  write(other.path(), 0, b);
  RoutingReader x(one.path(), 1);
  RoutingReader y(other.path(), 1);
  return first_flip(x, y);
}

}  // namespace

TEST(CompareLayouts, EqualRunsAgree) {
  const auto result = compare_layouts(run(), run(), {});
  EXPECT_THAT(result.broken, IsEmpty());
  EXPECT_EQ(result.steps, 3);
  EXPECT_EQ(result.loss.value, 0);
  EXPECT_FALSE(result.counts.has_value());
}

TEST(CompareLayouts, EachBoundIsHeldAndNamed) {
  struct Case {
    void (*change)(std::vector<ProbeStep>&, double factor);
    double within, beyond;  // relative changes
    std::string says;
  };
  const std::vector<Case> cases = {
      {[](auto& steps, double by) { steps[2].loss *= 1 + by; }, 0.9e-5, 1.2e-5, "the loss differs at step 3"},
      {[](auto& steps, double by) { steps[1].balance_loss *= 1 - by; }, 0.9e-5, 1.2e-5, "the balance loss differs at step 2"},
      {[](auto& steps, double by) { steps[0].norms.dense *= 1 + by; }, 0.9e-5, 1.2e-5, "norm of the dense gradients"},
      {[](auto& steps, double by) { steps[0].norms.router *= 1 + by; }, 0.9e-5, 1.2e-5, "norm of the router gradients"},
      {[](auto& steps, double by) { steps[0].norms.expert *= 1 - by; }, 0.9e-5, 1.2e-5, "norm of the expert gradients"},
      {[](auto& steps, double by) { steps[0].gradients["a"].squares *= 1 + by; }, 0.9e-4, 1.2e-4, "a (sum of squares)"},
      {[](auto& steps, double by) { steps[0].gradients["a"].sum += by; }, 0.9e-4, 1.2e-4, "a (sum)"},
      // A sum that cancels is judged by the size of its parts: sqrt(0.04).
      {[](auto& steps, double by) { steps[0].gradients["cancels"].sum += 0.2 * by; }, 0.9e-4, 1.2e-4, "cancels (sum)"},
  };
  for (const Case& each : cases) {
    auto changed = run();
    each.change(changed, each.within);
    EXPECT_THAT(compare_layouts(run(), changed, {}).broken, IsEmpty()) << each.says;
    changed = run();
    each.change(changed, each.beyond);
    EXPECT_THAT(compare_layouts(run(), changed, {}).broken, ElementsAre(HasSubstr(each.says)));
  }
}

TEST(CompareLayouts, GradientsThatAreMissingAreFound) {
  auto changed = run();
  changed[0].gradients.erase("a");
  EXPECT_THAT(compare_layouts(run(), changed, {}).broken, ElementsAre(HasSubstr("gradient of a")));
  changed = run();
  changed[0].gradients["a"].count = 401;  // a value counted twice
  EXPECT_THAT(compare_layouts(run(), changed, {}).broken, ElementsAre(HasSubstr("gradient of a")));
  EXPECT_THAT(compare_layouts(changed, run(), {}).broken, ElementsAre(HasSubstr("gradient of a")));
}

TEST(CompareLayouts, WhatIsNoNumberIsFound) {
  auto changed = run();
  changed[1].loss = std::nan("");
  EXPECT_THAT(compare_layouts(run(), changed, {}).broken, ElementsAre(HasSubstr("the loss differs at step 2")));
}

TEST(CompareLayouts, ARoundingFlipWidensTheLossBoundFromItsStepOn) {
  const RoutingFlip flip{2, 0, 1, 1e-7, 1};
  auto changed = run();
  changed[1].loss *= 1 + 9e-5;
  changed[1].tokens_per_expert = {{999, 1001, 1000, 1000}};
  const auto result = compare_layouts(run(), changed, flip);
  EXPECT_THAT(result.broken, IsEmpty());
  EXPECT_EQ(result.counts, 2);
  changed[1].loss = run()[1].loss * (1 + 1.2e-4);
  EXPECT_THAT(compare_layouts(run(), changed, flip).broken, ElementsAre(HasSubstr("the loss differs at step 2")));
  changed = run();
  changed[0].loss *= 1 + 2e-5;  // before the flip
  EXPECT_THAT(compare_layouts(run(), changed, flip).broken, ElementsAre(HasSubstr("the loss differs at step 1")));
}

TEST(CompareLayouts, AFlipThatIsNoRoundingIsAnErrorAndWidensNothing) {
  auto changed = run();
  changed[1].loss *= 1 + 5e-5;
  EXPECT_THAT(compare_layouts(run(), changed, RoutingFlip{2, 0, 3, 2e-5, 3}).broken,
              ElementsAre(HasSubstr("the loss differs at step 2"), HasSubstr("3 tokens were routed otherwise at step 2")));
}

TEST(CompareLayouts, CountsThatDifferWithoutAFlipAreAnError) {
  auto changed = run();
  changed[2].tokens_per_expert = {{999, 1001, 1000, 1000}};
  EXPECT_THAT(compare_layouts(run(), changed, {}).broken, ElementsAre(HasSubstr("another number of tokens at step 3")));
}

TEST(FirstFlip, IsNoneForTheSameExpertsInAnotherOrder) {
  EXPECT_FALSE(flip_between({block(1, 0, 0, 0, {0, 1, 2, 3}, {0.1F, 0.2F})}, {block(1, 0, 0, 0, {1, 0, 2, 3}, {0.1F, 0.2F})}).has_value());
}

TEST(FirstFlip, IsTheFirstLayerOfTheFirstStep) {
  const std::vector<RoutingBlock> a = {block(1, 0, 0, 0, {0, 1}, {0.1F, 0.2F}), block(1, 0, 1, 0, {0, 1}, {0.1F, 1e-6F}),
                                       block(1, 0, 2, 0, {0, 1}, {0.3F, 0.3F}), block(2, 0, 0, 0, {0, 1}, {0.5F, 0.5F})};
  auto b = a;
  b[1].expert = {0, 2};  // the flip
  b[1].margin[1] = 2e-6F;
  b[2].expert = {3, 2};  // what follows from it
  b[3].expert = {1, 0};
  const auto flip = flip_between(a, b);
  ASSERT_TRUE(flip.has_value());
  EXPECT_EQ(flip->step, 1);
  EXPECT_EQ(flip->layer, 1);
  EXPECT_EQ(flip->tokens, 1);
  EXPECT_FLOAT_EQ(static_cast<float>(flip->gap), 2e-6F);  // the larger of both runs'
  EXPECT_EQ(flip->choices_in_step, 3);
}

TEST(FirstFlip, TakesSlotsInAnyOrderAndAnyNumberPerToken) {
  RoutingBlock a = block(1, 0, 0, 0, {0, 1, 2, -1}, {0.1F, 1e-6F});
  RoutingBlock b = a;
  b.token = {1, 0, 0, 1};  // the same slots in another order, the unused one elsewhere
  b.expert = {2, 0, 1, -1};
  EXPECT_FALSE(flip_between({a}, {b}).has_value());
  b.expert[3] = 3;  // a second expert where there was one
  const auto flip = flip_between({a}, {b});
  ASSERT_TRUE(flip.has_value());
  EXPECT_EQ(flip->tokens, 1);
  EXPECT_EQ(flip->choices_in_step, 1);
  EXPECT_FLOAT_EQ(static_cast<float>(flip->gap), 1e-6F);
}

TEST(FirstFlip, CountsEachMicroStepsFirstLayer) {
  const std::vector<RoutingBlock> a = {block(4, 0, 0, 0, {0}, {0.1F}), block(4, 0, 1, 0, {0}, {1e-6F}), block(4, 1, 0, 1, {0}, {3e-6F}),
                                       block(4, 1, 1, 1, {0}, {0.1F})};
  auto b = a;
  for (const std::size_t i : {1, 2, 3}) b[i].expert = {1};
  const auto flip = flip_between(a, b);
  ASSERT_TRUE(flip.has_value());
  EXPECT_EQ(flip->layer, 0);
  EXPECT_EQ(flip->tokens, 2);
  EXPECT_FLOAT_EQ(static_cast<float>(flip->gap), 3e-6F);
}

TEST(ProbeFiles, PartsOfRanksMakeTheWhole) {
  const TemporaryFolder folder;
  for (int rank = 0; rank < 2; ++rank) {
    ProbeWriter writer(folder.path(), rank);
    ProbeStep step = run()[0];
    step.loss = 1.0 / 3;
    step.gradients = {{"a", {0.1 + rank, 2.0, 10}}, {"of " + std::to_string(rank), {1, 1, 1}}};
    writer.write(step);
    writer.write(block(1, 0, 0, 2 * rank, {rank, 1, 2, 3}, {0.5F, 0.25F}));
    writer.finish();
  }
  const auto steps = read_probe_steps(folder.path(), 2);
  ASSERT_EQ(steps.size(), 1U);
  EXPECT_EQ(steps[0].loss, 1.0 / 3);  // every digit
  EXPECT_EQ(steps[0].gradients.size(), 3U);
  EXPECT_DOUBLE_EQ(steps[0].gradients.at("a").sum, 1.2);
  EXPECT_EQ(steps[0].gradients.at("a").squares, 4.0);
  EXPECT_EQ(steps[0].gradients.at("a").count, 20);
  RoutingReader reader(folder.path(), 2);
  const auto whole = reader.next();
  ASSERT_TRUE(whole.has_value());
  EXPECT_EQ(whole->rows, 4);
  EXPECT_THAT(whole->token, ElementsAre(0, 0, 1, 1, 2, 2, 3, 3));
  EXPECT_THAT(whole->expert, ElementsAre(0, 1, 2, 3, 1, 1, 2, 3));
  EXPECT_FALSE(reader.next().has_value());
}

TEST(ProbeFiles, RowsThatDoNotFollowAreRefused) {
  const TemporaryFolder folder;
  write(folder.path(), 0, {block(1, 0, 0, 0, {0, 1}, {0, 0})});
  write(folder.path(), 1, {block(1, 0, 0, 3, {0, 1}, {0, 0})});
  RoutingReader reader(folder.path(), 2);
  EXPECT_THROW(reader.next(), Error);
}

TEST(ProbeFiles, OneOtherBitIsSeen) {
  const TemporaryFolder a;
  const TemporaryFolder b;
  write(a.path(), 0, {block(1, 0, 0, 0, {0, 1}, {0.5F, 0.5F})});
  write(b.path(), 0, {block(1, 0, 0, 0, {0, 1}, {0.5F, 0.5F})});
  EXPECT_TRUE(same_probe_files(a.path(), b.path(), 1));
  write(b.path(), 0, {block(1, 0, 0, 0, {0, 1}, {0.5F, std::nextafter(0.5F, 1.0F)})});
  EXPECT_FALSE(same_probe_files(a.path(), b.path(), 1));
}
