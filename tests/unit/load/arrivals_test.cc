#include "load/arrivals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "load/load_metrics.h"

namespace polylora {
namespace {

std::vector<double> gaps(const std::vector<double>& times) {
  std::vector<double> result;
  for (size_t i = 1; i < times.size(); ++i) result.push_back(times[i] - times[i - 1]);
  return result;
}

TEST(ArrivalTimes, AllAtOnceWithoutARate) {
  EXPECT_THAT(arrival_times({}, 3), testing::ElementsAre(0, 0, 0));
  EXPECT_TRUE(arrival_times({}, 0).empty());
}

TEST(ArrivalTimes, LastAtTheEndOfTheConfiguredTime) {
  ArrivalOptions options;
  options.request_rate = 4;
  const std::vector<double> times = arrival_times(options, 100);
  EXPECT_TRUE(std::is_sorted(times.begin(), times.end()));
  EXPECT_NEAR(times.back(), 25, 1e-9);
  EXPECT_EQ(times, arrival_times(options, 100));
  options.seed = 1;
  EXPECT_NE(times, arrival_times(options, 100));
}

TEST(ArrivalTimes, BurstinessIsTheShapeOfTheGaps) {
  ArrivalOptions options;
  options.request_rate = 1;
  const auto variation = [&options](double burstiness) {  // 1/sqrt(shape) of a gamma distribution
    options.burstiness = burstiness;
    const std::vector<double> all = gaps(arrival_times(options, 5000));
    return standard_deviation(all) / mean(all);
  };
  EXPECT_NEAR(variation(1), 1, 0.1);
  EXPECT_NEAR(variation(4), 0.5, 0.05);
  EXPECT_NEAR(variation(0.25), 2, 0.3);
  EXPECT_NEAR(variation(INFINITY), 0, 1e-6);
}

TEST(ArrivalTimes, RampUpGoesFromStartToEnd) {
  ArrivalOptions options;
  options.burstiness = INFINITY;
  options.ramp_up = RampUp::kLinear;
  options.start_rps = 1;
  options.end_rps = 3;
  EXPECT_THAT(arrival_times(options, 3), testing::ElementsAre(testing::DoubleEq(1), testing::DoubleEq(1.5),
                                                              testing::DoubleEq(1.5 + 1.0 / 3)));
  options.ramp_up = RampUp::kExponential;
  options.end_rps = 4;
  EXPECT_THAT(arrival_times(options, 3),
              testing::ElementsAre(testing::DoubleEq(1), testing::DoubleEq(1.5), testing::DoubleEq(1.75)));
}

TEST(ArrivalTimes, RefusesRatesThatAreNotPositive) {
  ArrivalOptions options;
  options.request_rate = 0;
  EXPECT_THROW(arrival_times(options, 1), Error);
  options = {};
  options.burstiness = 0;
  EXPECT_THROW(arrival_times(options, 1), Error);
}

}  // namespace
}  // namespace polylora
