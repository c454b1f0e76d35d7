#include "load/load_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace polylora {
namespace {

RequestRecord record(double start, double ttft, std::vector<double> itl, int output_tokens) {
  RequestRecord record;
  record.success = true;
  record.prompt_tokens = 10;
  record.output_tokens = output_tokens;
  record.start_s = start;
  record.ttft_s = record.latency_s = ttft;
  for (const double gap : itl) record.latency_s += gap;
  record.itl_s = std::move(itl);
  return record;
}

// numpy.percentile([15, 20, 35, 40, 50], q)
TEST(Percentile, InterpolatesAsNumpyDoes) {
  const std::vector<double> values = {50, 15, 40, 20, 35};
  EXPECT_DOUBLE_EQ(percentile(values, 0), 15);
  EXPECT_DOUBLE_EQ(percentile(values, 40), 29);
  EXPECT_DOUBLE_EQ(percentile(values, 50), 35);
  EXPECT_DOUBLE_EQ(percentile(values, 99), 49.6);
  EXPECT_DOUBLE_EQ(percentile(values, 100), 50);
  EXPECT_DOUBLE_EQ(percentile({7}, 99), 7);
  EXPECT_DOUBLE_EQ(percentile({}, 50), 0);
}

TEST(StandardDeviation, IsThePopulations) {
  EXPECT_DOUBLE_EQ(standard_deviation(std::vector<double>{2, 4, 4, 4, 5, 5, 7, 9}), 2);
  EXPECT_DOUBLE_EQ(standard_deviation({}), 0);
}

TEST(SummarizeLoad, AddsUpWhatSucceeded) {
  std::vector<RequestRecord> records = {record(0, 0.5, {0.1, 0.1}, 3), record(0.2, 1.0, {0.3}, 2)};
  records.emplace_back().error = "refused";
  records.back().output_tokens = 99;
  const LoadMetrics metrics = summarize_load(records, 2.0, std::vector<double>{99});
  EXPECT_EQ(metrics.completed, 2);
  EXPECT_EQ(metrics.failed, 1);
  EXPECT_EQ(metrics.input_tokens, 20);
  EXPECT_EQ(metrics.output_tokens, 5);
  EXPECT_DOUBLE_EQ(metrics.request_throughput, 1);
  EXPECT_DOUBLE_EQ(metrics.output_throughput, 2.5);
  EXPECT_DOUBLE_EQ(metrics.total_token_throughput, 12.5);
  EXPECT_EQ(metrics.peak_concurrency, 2);
  EXPECT_NEAR(metrics.ttft.mean_ms, 750, 1e-9);
  EXPECT_NEAR(metrics.ttft.percentiles_ms.at(0).second, 995, 1e-9);
  EXPECT_NEAR(metrics.tpot.mean_ms, 200, 1e-9);
  EXPECT_NEAR(metrics.itl.median_ms, 100, 1e-9);
  EXPECT_NEAR(metrics.e2el.mean_ms, 1000, 1e-9);
}

TEST(SummarizeLoad, CountsPiecesOfTheBestSecond) {
  const std::vector<RequestRecord> records = {record(10, 0.5, {0.1, 0.1, 0.5}, 4),
                                              record(10.1, 0.2, {1.5}, 2)};
  EXPECT_DOUBLE_EQ(summarize_load(records, 2, {}).peak_output_throughput, 4);  // 0.5, 0.6, 0.7 and 0.3
}

TEST(SummarizeLoad, ARequestThatEndsWhenAnotherBeginsDidNotMeetIt) {
  const std::vector<RequestRecord> records = {record(0, 1, {}, 1), record(1, 1, {}, 1)};
  EXPECT_EQ(summarize_load(records, 2, {}).peak_concurrency, 1);
}

TEST(SummarizeLoad, GoodRequestsKeepEveryBound) {
  const std::vector<RequestRecord> records = {record(0, 0.1, {0.2}, 2), record(0, 0.1, {0.4}, 2),
                                              record(0, 0.9, {}, 1)};
  Goodput bounds;
  bounds.ttft_ms = 500;
  EXPECT_DOUBLE_EQ(summarize_load(records, 1, {}, bounds).request_goodput, 2);
  bounds.tpot_ms = 300;
  EXPECT_DOUBLE_EQ(summarize_load(records, 1, {}, bounds).request_goodput, 1);
  bounds.ttft_ms = 1000;  // a single token has no time per further token
  EXPECT_DOUBLE_EQ(summarize_load(records, 1, {}, bounds).request_goodput, 2);
}

TEST(SummarizeLoad, OfNothingIsZeros) {
  const LoadMetrics metrics = summarize_load({}, 0, std::vector<double>{99});
  EXPECT_EQ(metrics.completed, 0);
  EXPECT_DOUBLE_EQ(metrics.output_throughput, 0);
  EXPECT_DOUBLE_EQ(metrics.ttft.percentiles_ms.at(0).second, 0);
}

}  // namespace
}  // namespace polylora
