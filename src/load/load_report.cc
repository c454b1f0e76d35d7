#include "load/load_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

struct LatencyMetric {
  const char* key;     // in JSON names: "mean_ttft_ms"
  const char* name;    // in lines: "Mean TTFT (ms):"
  const char* header;  // of the section
  const LatencySummary LoadMetrics::*summary;
  bool needs_concurrency_limit = false;
  bool needs_finite_rate = false;
};

constexpr LatencyMetric kLatencies[] = {
    {"ttft", "TTFT", "Time to First Token", &LoadMetrics::ttft},
    {"tpot", "TPOT", "Time per Output Token (excl. 1st token)", &LoadMetrics::tpot},
    {"itl", "ITL", "Inter-token Latency", &LoadMetrics::itl},
    {"e2el", "E2EL", "End-to-end Latency", &LoadMetrics::e2el},
    {"client_queue_time", "Client Queue Time", "Client-side Queueing", &LoadMetrics::queue, true},
    {"e2el_including_client_queue", "E2EL incl. Client Queue", "Queue-inclusive End-to-end Latency",
     &LoadMetrics::e2el_with_queue, true, true},
};

std::vector<const LatencyMetric*> chosen_latencies(const LoadReportOptions& options) {
  std::vector<const LatencyMetric*> chosen;
  for (const LatencyMetric& metric : kLatencies) {
    const auto& names = options.percentile_metrics;
    if (std::find(names.begin(), names.end(), metric.key) == names.end()) continue;
    if (metric.needs_concurrency_limit && !options.max_concurrency) continue;
    if (metric.needs_finite_rate && std::isinf(options.request_rate)) continue;
    chosen.push_back(&metric);
  }
  return chosen;
}

/// "99", "99.9".
std::string percentile_word(double q) {
  return q == std::floor(q) ? fmt::format("{:.0f}", q) : fmt::format("{}", q);
}

class Block {
 public:
  void title(std::string_view text, char fill) {
    text_ += fill == '=' ? fmt::format("{:=^50}\n", text) : fmt::format("{:-^50}\n", text);
  }
  void count(std::string_view label, int64_t value) { text_ += fmt::format("{:<40} {:<10}\n", label, value); }
  void number(std::string_view label, double value) {
    text_ += fmt::format("{:<40} {:<10.2f}\n", label, value);
  }
  void end() { text_ += std::string(50, '=') + "\n"; }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

void add_totals(const LoadMetrics& metrics, double duration_s, const LoadReportOptions& options,
                Block& block) {
  block.count("Successful requests:", metrics.completed);
  block.count("Failed requests:", metrics.failed);
  if (options.max_concurrency) block.count("Maximum request concurrency:", *options.max_concurrency);
  if (!std::isinf(options.request_rate)) block.number("Request rate configured (RPS):", options.request_rate);
  block.number("Benchmark duration (s):", duration_s);
  block.count("Total input tokens:", metrics.input_tokens);
  block.count("Total generated tokens:", metrics.output_tokens);
  block.number("Request throughput (req/s):", metrics.request_throughput);
  if (options.goodput) block.number("Request goodput (req/s):", metrics.request_goodput);
  block.number("Output token throughput (tok/s):", metrics.output_throughput);
  block.number("Peak output token throughput (tok/s):", metrics.peak_output_throughput);
  block.number("Peak concurrent requests:", metrics.peak_concurrency);
  block.number("Total token throughput (tok/s):", metrics.total_token_throughput);
}

void add_probes(const ProbeSummary& probes, Block& block) {
  if (probes.completed == 0) return;
  block.title("Probe Requests", '-');
  block.count("Probe requests completed:", probes.completed);
  block.count("Probe requests failed:", probes.failed);
  block.number("Median probe E2EL (ms):", probes.median_ms);
  block.number("P99 probe E2EL (ms):", probes.p99_ms);
  block.number("Max probe E2EL (ms):", probes.max_ms);
}

void add_latency(const LatencyMetric& metric, const LatencySummary& summary, Block& block) {
  block.title(metric.header, '-');
  block.number(fmt::format("Mean {} (ms):", metric.name), summary.mean_ms);
  block.number(fmt::format("Median {} (ms):", metric.name), summary.median_ms);
  for (const auto& [q, value] : summary.percentiles_ms)
    block.number(fmt::format("P{} {} (ms):", percentile_word(q), metric.name), value);
}

template <typename Member>
Json column(const std::vector<RequestRecord>& records, Member member) {
  Json values = Json::array();
  for (const RequestRecord& record : records) values.push_back(record.*member);
  return values;
}

Json output_lengths(const std::vector<RequestRecord>& records) {
  Json values = Json::array();
  for (const RequestRecord& record : records) values.push_back(record.success ? record.output_tokens : 0);
  return values;
}

void add_details(const std::vector<RequestRecord>& records, Json& json) {
  json["input_lens"] = column(records, &RequestRecord::prompt_tokens);
  json["output_lens"] = output_lengths(records);
  json["ttfts"] = column(records, &RequestRecord::ttft_s);
  json["itls"] = column(records, &RequestRecord::itl_s);
  json["latencies"] = column(records, &RequestRecord::latency_s);
  json["start_times"] = column(records, &RequestRecord::start_s);
  json["queue_times"] = column(records, &RequestRecord::queue_s);
  json["generated_texts"] = column(records, &RequestRecord::text);
  json["errors"] = column(records, &RequestRecord::error);
  json["models"] = column(records, &RequestRecord::model);
}

}  // namespace

ProbeSummary summarize_probes(const std::vector<SideRecord>& records) {
  ProbeSummary summary;
  std::vector<double> latencies;
  for (const SideRecord& record : records) {
    if (record.error.empty()) latencies.push_back(record.latency_s);
  }
  summary.completed = static_cast<int>(latencies.size());
  summary.failed = static_cast<int>(records.size() - latencies.size());
  summary.median_ms = percentile(latencies, 50) * 1000;
  summary.p99_ms = percentile(latencies, 99) * 1000;
  summary.max_ms = percentile(latencies, 100) * 1000;
  return summary;
}

std::vector<std::string> latency_metric_names() {
  std::vector<std::string> names;
  for (const LatencyMetric& metric : kLatencies) names.emplace_back(metric.key);
  return names;
}

std::string load_report_text(const LoadMetrics& metrics, double duration_s,
                             const LoadReportOptions& options) {
  Block block;
  block.title(" Serving Benchmark Result ", '=');
  add_totals(metrics, duration_s, options, block);
  if (options.probes) add_probes(*options.probes, block);
  for (const LatencyMetric* metric : chosen_latencies(options))
    add_latency(*metric, metrics.*metric->summary, block);
  block.end();
  return block.text();
}

Json load_report_json(const LoadMetrics& metrics, const LoadResult& result, const LoadReportOptions& options,
                      bool detailed) {
  Json json = {{"duration", result.duration_s},
               {"completed", metrics.completed},
               {"failed", metrics.failed},
               {"total_input_tokens", metrics.input_tokens},
               {"total_output_tokens", metrics.output_tokens},
               {"request_throughput", metrics.request_throughput},
               {"request_goodput", options.goodput ? Json(metrics.request_goodput) : Json()},
               {"output_throughput", metrics.output_throughput},
               {"total_token_throughput", metrics.total_token_throughput}};
  if (detailed) add_details(result.records, json);
  json["max_output_tokens_per_s"] = metrics.peak_output_throughput;
  json["max_concurrent_requests"] = metrics.peak_concurrency;
  if (options.probes && options.probes->completed > 0) {
    json["probe_completed"] = options.probes->completed;
    json["probe_failed"] = options.probes->failed;
    json["probe_median_e2el_ms"] = options.probes->median_ms;
    json["probe_p99_e2el_ms"] = options.probes->p99_ms;
    json["probe_max_e2el_ms"] = options.probes->max_ms;
  }
  for (const LatencyMetric* metric : chosen_latencies(options)) {
    const LatencySummary& summary = metrics.*metric->summary;
    json[fmt::format("mean_{}_ms", metric->key)] = summary.mean_ms;
    json[fmt::format("median_{}_ms", metric->key)] = summary.median_ms;
    json[fmt::format("std_{}_ms", metric->key)] = summary.std_ms;
    for (const auto& [q, value] : summary.percentiles_ms)
      json[fmt::format("p{}_{}_ms", percentile_word(q), metric->key)] = value;
  }
  return json;
}

}  // namespace polylora
