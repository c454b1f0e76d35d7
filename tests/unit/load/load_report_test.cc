#include "load/load_report.h"

#include <gtest/gtest.h>

#include <cmath>

namespace polylora {
namespace {

LoadResult example() {
  LoadResult result;
  result.duration_s = 2;
  RequestRecord& record = result.records.emplace_back();
  record.success = true;
  record.prompt_tokens = 8;
  record.output_tokens = 2;
  record.ttft_s = 0.1;
  record.itl_s = {0.05};
  record.latency_s = 0.15;
  record.queue_s = 0.01;
  result.records.emplace_back().error = "refused";
  return result;
}

TEST(LoadReport, TextIsTheBlockOfVllm) {
  const LoadResult result = example();
  LoadReportOptions options;
  options.max_concurrency = 4;
  options.request_rate = 2.5;
  options.percentile_metrics = {"itl", "ttft", "client_queue_time"};
  options.goodput = true;
  Goodput bounds;
  bounds.ttft_ms = 200;
  const LoadMetrics metrics = summarize_load(result.records, 2, std::vector<double>{99, 99.9}, bounds);
  EXPECT_EQ(load_report_text(metrics, 2, options),
            "============ Serving Benchmark Result ============\n"
            "Successful requests:                     1         \n"
            "Failed requests:                         1         \n"
            "Maximum request concurrency:             4         \n"
            "Request rate configured (RPS):           2.50      \n"
            "Benchmark duration (s):                  2.00      \n"
            "Total input tokens:                      8         \n"
            "Total generated tokens:                  2         \n"
            "Request throughput (req/s):              0.50      \n"
            "Request goodput (req/s):                 0.50      \n"
            "Output token throughput (tok/s):         1.00      \n"
            "Peak output token throughput (tok/s):    2.00      \n"
            "Peak concurrent requests:                1.00      \n"
            "Total token throughput (tok/s):          5.00      \n"
            "---------------Time to First Token----------------\n"
            "Mean TTFT (ms):                          100.00    \n"
            "Median TTFT (ms):                        100.00    \n"
            "P99 TTFT (ms):                           100.00    \n"
            "P99.9 TTFT (ms):                         100.00    \n"
            "---------------Inter-token Latency----------------\n"
            "Mean ITL (ms):                           50.00     \n"
            "Median ITL (ms):                         50.00     \n"
            "P99 ITL (ms):                            50.00     \n"
            "P99.9 ITL (ms):                          50.00     \n"
            "---------------Client-side Queueing---------------\n"
            "Mean Client Queue Time (ms):             10.00     \n"
            "Median Client Queue Time (ms):           10.00     \n"
            "P99 Client Queue Time (ms):              10.00     \n"
            "P99.9 Client Queue Time (ms):            10.00     \n"
            "==================================================\n");
}

TEST(LoadReport, JsonHasListsOnlyWhenDetailed) {
  const LoadResult result = example();
  LoadReportOptions options;
  options.request_rate = INFINITY;
  options.percentile_metrics = {"ttft", "e2el_including_client_queue"};
  const LoadMetrics metrics = summarize_load(result.records, 2, std::vector<double>{99});
  const auto brief = load_report_json(metrics, result, options, false);
  EXPECT_EQ(brief["completed"], 1);
  EXPECT_TRUE(brief["request_goodput"].is_null());
  EXPECT_NEAR(brief["p99_ttft_ms"].get<double>(), 100, 1e-9);
  EXPECT_FALSE(brief.contains("ttfts"));
  EXPECT_FALSE(brief.contains("mean_itl_ms"));
  EXPECT_FALSE(brief.contains("mean_e2el_including_client_queue_ms"));
  const auto detailed = load_report_json(metrics, result, options, true);
  EXPECT_EQ(detailed["output_lens"], nlohmann::ordered_json::array({2, 0}));
  EXPECT_EQ(detailed["errors"], nlohmann::ordered_json::array({"", "refused"}));
  EXPECT_EQ(detailed["itls"].dump(), "[[0.05],[]]");
}

TEST(LoadReport, ProbesAreSummarized) {
  std::vector<SideRecord> records(3);
  records[0].latency_s = 0.1;
  records[1].latency_s = 0.3;
  records[2].error = "refused";
  const ProbeSummary summary = summarize_probes(records);
  EXPECT_EQ(summary.completed, 2);
  EXPECT_EQ(summary.failed, 1);
  EXPECT_NEAR(summary.median_ms, 200, 1e-9);
  EXPECT_NEAR(summary.max_ms, 300, 1e-9);
}

}  // namespace
}  // namespace polylora
