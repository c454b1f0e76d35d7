// The result of `bench serve` as text and as JSON: vLLM's, field by field.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "load/load_metrics.h"
#include "load/load_run.h"

namespace polylora {

/// Latencies of single-token requests that were sent beside the load.
struct ProbeSummary {
  int completed = 0;
  int failed = 0;
  double median_ms = 0;
  double p99_ms = 0;
  double max_ms = 0;
};
ProbeSummary summarize_probes(const std::vector<SideRecord>& records);

struct LoadReportOptions {
  std::optional<int> max_concurrency;
  double request_rate = 0;                      // may be infinite
  std::vector<std::string> percentile_metrics;  // of ttft, tpot, itl, e2el, client_queue_time, …
  bool goodput = false;                         // was asked for
  std::optional<ProbeSummary> probes;
};

/// Names that `percentile_metrics` may hold.
std::vector<std::string> latency_metric_names();

/// The block between the two lines of '=', ending with a newline.
std::string load_report_text(const LoadMetrics& metrics, double duration_s, const LoadReportOptions& options);

/// From "duration" on; `detailed` adds the lists with a value per request.
nlohmann::ordered_json load_report_json(const LoadMetrics& metrics, const LoadResult& result,
                                        const LoadReportOptions& options, bool detailed);

}  // namespace polylora
