#include "core/nn/routing/report.h"

#include "tests/support/support.h"

namespace yard {
namespace {

using namespace test;
using Values = std::vector<double>;

TEST(RoutingReports, AddsUpByName) {
  RoutingReports reports;
  RouterReport& first = reports.add_layer();
  RouterReport& second = reports.add_layer();
  const Reported balance0 = first.loss("balance");
  const Reported dropped = first.scalar("dropped", 2);
  const Reported balance1 = second.loss("balance");
  const Reported z = second.loss("z");
  const Reported mean0 = first.scalar("mean");
  const Reported mean1 = second.scalar("mean");
  const Reported load = second.per_expert("load", 3);
  ASSERT_EQ(reports.size(), 1 + 4 + 1 + 1 + 2 + 2 + 3);
  reports.bind(Tensor::zeros(cpu(), {reports.size()}, DType::f64));
  const auto set = [](const Reported& to, const Values& values) { std::copy(values.begin(), values.end(), to.values().data<double>()); };
  set(balance0, {3});
  set(balance1, {5});
  set(z, {8});
  set(dropped, {1, 0, 4, 0});  // of four and of none
  set(mean0, {6, 2});
  set(mean1, {2, 6});
  set(load, {1, 2, 3});
  const RoutingSummary summary = reports.summary(reports.values().values<double>(), 2);
  EXPECT_EQ(summary.loss("balance"), 2) << "a mean over two layers and two micro-batches";
  EXPECT_EQ(summary.loss("z"), 4) << "over the layers that have it";
  EXPECT_EQ(summary.loss("importance"), 0);
  EXPECT_EQ(summary.layers[0].losses.at("balance"), 1.5);
  EXPECT_EQ(summary.scalars.at("mean").mean(), 1) << "sums over sums, no mean of means";
  EXPECT_EQ(summary.layers[0].scalars.at("mean").mean(), 3);
  EXPECT_EQ(summary.scalars.at("dropped").mean(), 0.25);
  EXPECT_EQ(summary.scalars.at("dropped").parts(), (Values{0.25, 0}));
  EXPECT_FALSE(summary.layers[1].scalars.contains("dropped"));
  EXPECT_EQ(summary.layers[1].per_expert.at("load"), (Values{1, 2, 3}));
}

TEST(RoutingReports, OneRankAddsWhatAllRanksHold) {
  RoutingReports reports;
  RouterReport& layer = reports.add_layer();
  (void)layer.per_expert("load", 2);
  (void)layer.per_expert_replicated("bias", 2);
  Values values = {1, 2, 3, 4};
  reports.keep_one_copy(values, true);
  EXPECT_EQ(values, (Values{1, 2, 3, 4}));
  reports.keep_one_copy(values, false);
  EXPECT_EQ(values, (Values{1, 2, 0, 0}));
}

TEST(RoutingReports, MistakesOfRoutersAreErrors) {
  RoutingReports reports;
  RouterReport& layer = reports.add_layer();
  const Reported loss = layer.loss("balance");
  EXPECT_THROW((void)layer.scalar("balance"), Error) << "one name, two values";
  EXPECT_NO_THROW((void)reports.add_layer().loss("balance")) << "of another layer";
  EXPECT_THROW((void)loss.values(), Error) << "no memory yet";
  EXPECT_THROW(reports.bind(Tensor::zeros(cpu(), {3}, DType::f64)), Error);
  reports.bind(Tensor::zeros(cpu(), {2}, DType::f64));
  EXPECT_THROW((void)layer.loss("late"), Error) << "names are declared when a router is made";
  EXPECT_THROW((void)Reported().values(), Error);
  EXPECT_FALSE(static_cast<bool>(Reported()));
}

}  // namespace
}  // namespace yard
