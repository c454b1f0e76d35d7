// Which examples an update sees, and learning rates, as transformers' Trainer counts and schedules them.
#include "tune/train/sample_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tune/train/lr_schedule.h"

namespace polylora {
namespace {

TEST(SamplePlan, CountsAsTheTrainerDoes) {
  // 1090 examples, 1 × 8: the peer logs epoch 0.007339449541284404 after the first of 411 updates.
  SamplePlan plan(std::vector<int>(1090, 5), {.batch_size = 1, .batches_per_update = 8, .epochs = 3.0});
  EXPECT_EQ(plan.updates_per_epoch(), 137);
  EXPECT_EQ(plan.total_updates(), 411);
  EXPECT_DOUBLE_EQ(plan.update(0).epoch, 0.007339449541284404);
  EXPECT_EQ(plan.update(136).examples.size(), 2u) << "the rest of the epoch";
  EXPECT_TRUE(plan.update(136).ends_epoch);
  EXPECT_DOUBLE_EQ(plan.update(136).epoch, 1.0);
  EXPECT_FALSE(plan.update(137).ends_epoch);
  EXPECT_EQ(SamplePlan(std::vector<int>(10, 1), {.batch_size = 4, .max_updates = 7}).total_updates(), 7);
  EXPECT_EQ(SamplePlan({}, {}).total_updates(), 0);
}

TEST(SamplePlan, EveryEpochSeesEveryExampleOnceInAnOrderOfItsOwn) {
  SamplePlan plan(std::vector<int>(50, 1), {.batch_size = 3, .batches_per_update = 2, .epochs = 2.0});
  std::vector<std::vector<size_t>> orders(2);
  for (int64_t step = 0; step < plan.total_updates(); ++step) {
    const auto samples = plan.update(step).examples;
    auto& order = orders[static_cast<size_t>(step / plan.updates_per_epoch())];
    order.insert(order.end(), samples.begin(), samples.end());
  }
  for (const auto& order : orders) EXPECT_EQ(std::set<size_t>(order.begin(), order.end()).size(), 50u);
  EXPECT_NE(orders[0], orders[1]);
}

TEST(SamplePlan, AnUpdateDoesNotDependOnThoseBefore) {
  const SamplePlanOptions options{.batch_size = 2, .batches_per_update = 2, .seed = 7};
  SamplePlan all(std::vector<int>(23, 1), options), resumed(std::vector<int>(23, 1), options);
  for (int64_t step = 0; step < 9; ++step) all.update(step);
  EXPECT_EQ(all.update(9).examples, resumed.update(9).examples);
}

TEST(SamplePlan, GroupsByLength) {
  std::vector<int> lengths;
  for (int i = 0; i < 400; ++i) lengths.push_back(i * 37 % 400);
  SamplePlan plan(lengths,
                  {.batch_size = 8, .batches_per_update = 1, .epochs = 1.0, .group_by_length = true});
  int widest = 0;
  for (int64_t step = 0; step < plan.total_updates(); ++step) {
    const auto samples = plan.update(step).examples;
    const auto [low, high] = std::minmax_element(samples.begin(), samples.end(),
                                                 [&](size_t a, size_t b) { return lengths[a] < lengths[b]; });
    widest = std::max(widest, lengths[*high] - lengths[*low]);
  }
  EXPECT_LT(widest, 40);
}

double factor(LrSchedule schedule, int64_t step, const LrScheduleOptions& options = {}) {
  return lr_factor(schedule, options, 1e-4, step, 10, 110);
}

TEST(LrSchedule, WarmsUpFromZero) {
  for (const LrSchedule schedule : {LrSchedule::kLinear, LrSchedule::kCosine, LrSchedule::kPolynomial,
                                    LrSchedule::kConstantWithWarmup, LrSchedule::kInverseSqrt}) {
    EXPECT_EQ(factor(schedule, 0), 0.0);
    EXPECT_DOUBLE_EQ(factor(schedule, 5), 0.5);
    EXPECT_NEAR(factor(schedule, 10), 1.0, 1e-12);
  }
  EXPECT_EQ(factor(LrSchedule::kConstant, 0), 1.0);
}

TEST(LrSchedule, Decays) {
  EXPECT_DOUBLE_EQ(factor(LrSchedule::kLinear, 60), 0.5);
  EXPECT_NEAR(factor(LrSchedule::kCosine, 60), 0.5, 1e-12);
  EXPECT_NEAR(factor(LrSchedule::kCosine, 35), 0.5 * (1 + std::sqrt(0.5)), 1e-12);
  EXPECT_NEAR(factor(LrSchedule::kCosineWithRestarts, 60, {.num_cycles = 2}), 1.0, 1e-12);
  EXPECT_NEAR(factor(LrSchedule::kCosineWithMinLr, 110, {.min_lr = 1e-5}), 0.1, 1e-12);
  EXPECT_NEAR(factor(LrSchedule::kPolynomial, 60, {.power = 2.0, .lr_end = 0.0}), 0.25, 1e-12);
  EXPECT_NEAR(factor(LrSchedule::kInverseSqrt, 40), 0.5, 1e-12);
  EXPECT_EQ(factor(LrSchedule::kConstantWithWarmup, 100), 1.0);
  EXPECT_NEAR(factor(LrSchedule::kLinear, 110), 0.0, 1e-12);
}

}  // namespace
}  // namespace polylora
