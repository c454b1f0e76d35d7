#include "load/load_metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace polylora {
namespace {

constexpr double kMsPerSecond = 1000;

double time_per_output_token(const RequestRecord& record) {
  return record.output_tokens > 1 ? (record.latency_s - record.ttft_s) / (record.output_tokens - 1) : 0;
}

bool keeps(const std::optional<double>& bound_ms, double seconds) {
  return !bound_ms || seconds * kMsPerSecond <= *bound_ms;
}

bool is_good(const RequestRecord& record, const Goodput& goodput) {
  return keeps(goodput.ttft_ms, record.ttft_s) && keeps(goodput.tpot_ms, time_per_output_token(record)) &&
         keeps(goodput.e2el_ms, record.latency_s);
}

std::vector<const RequestRecord*> successes(std::span<const RequestRecord> records) {
  std::vector<const RequestRecord*> result;
  for (const RequestRecord& record : records) {
    if (record.success) result.push_back(&record);
  }
  return result;
}

/// Most pieces of output within one second, seconds counted from the first request on.
double peak_output(const std::vector<const RequestRecord*>& records) {
  double first = records.front()->start_s;
  for (const RequestRecord* record : records) first = std::min(first, record->start_s);
  std::vector<int> seconds;
  const auto count = [&](double time) {
    const auto second = static_cast<size_t>(time - first);
    if (second >= seconds.size()) seconds.resize(second + 1);
    ++seconds[second];
  };
  for (const RequestRecord* record : records) {
    double time = record->start_s + record->ttft_s;
    count(time);
    for (const double gap : record->itl_s) count(time += gap);
  }
  return *std::max_element(seconds.begin(), seconds.end());
}

/// Most requests that ran at the same moment; one that ends when another begins did not meet it.
int peak_concurrency(const std::vector<const RequestRecord*>& records) {
  std::vector<std::pair<double, int>> events;
  for (const RequestRecord* record : records) {
    events.emplace_back(record->start_s, 1);
    events.emplace_back(record->start_s + record->latency_s, -1);
  }
  std::sort(events.begin(), events.end());
  int running = 0, peak = 0;
  for (const auto& [time, change] : events) peak = std::max(peak, running += change);
  return peak;
}

struct Latencies {
  std::vector<double> ttft, tpot, itl, e2el, queue, e2el_with_queue;
};

Latencies collect(const std::vector<const RequestRecord*>& records) {
  Latencies all;
  for (const RequestRecord* record : records) {
    all.ttft.push_back(record->ttft_s);
    if (record->output_tokens > 1) all.tpot.push_back(time_per_output_token(*record));
    all.itl.insert(all.itl.end(), record->itl_s.begin(), record->itl_s.end());
    all.e2el.push_back(record->latency_s);
    all.queue.push_back(record->queue_s);
    all.e2el_with_queue.push_back(record->queue_s + record->latency_s);
  }
  return all;
}

void add_latencies(const Latencies& all, std::span<const double> percentiles, LoadMetrics& metrics) {
  metrics.ttft = summarize_latency(all.ttft, percentiles);
  metrics.tpot = summarize_latency(all.tpot, percentiles);
  metrics.itl = summarize_latency(all.itl, percentiles);
  metrics.e2el = summarize_latency(all.e2el, percentiles);
  metrics.queue = summarize_latency(all.queue, percentiles);
  metrics.e2el_with_queue = summarize_latency(all.e2el_with_queue, percentiles);
}

double per_second(double amount, double duration_s) {
  return duration_s > 0 ? amount / duration_s : 0;
}

}  // namespace

double percentile(std::vector<double> values, double q) {
  check(q >= 0 && q <= 100, "a percentile is between 0 and 100");
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double position = q / 100 * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (values[above] - values[below]) * (position - static_cast<double>(below));
}

double mean(std::span<const double> values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double standard_deviation(std::span<const double> values) {
  if (values.empty()) return 0;
  const double centre = mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - centre) * (value - centre);
  return std::sqrt(sum / static_cast<double>(values.size()));
}

LatencySummary summarize_latency(const std::vector<double>& seconds, std::span<const double> percentiles) {
  LatencySummary summary;
  summary.mean_ms = mean(seconds) * kMsPerSecond;
  summary.median_ms = percentile(seconds, 50) * kMsPerSecond;
  summary.std_ms = standard_deviation(seconds) * kMsPerSecond;
  for (const double q : percentiles)
    summary.percentiles_ms.emplace_back(q, percentile(seconds, q) * kMsPerSecond);
  return summary;
}

LoadMetrics summarize_load(std::span<const RequestRecord> records, double duration_s,
                           std::span<const double> percentiles, const Goodput& goodput) {
  const std::vector<const RequestRecord*> good = successes(records);
  LoadMetrics metrics;
  metrics.completed = static_cast<int>(good.size());
  metrics.failed = static_cast<int>(records.size() - good.size());
  int within_bounds = 0;
  for (const RequestRecord* record : good) {
    metrics.input_tokens += record->prompt_tokens;
    metrics.output_tokens += record->output_tokens;
    if (is_good(*record, goodput)) ++within_bounds;
  }
  const auto output = static_cast<double>(metrics.output_tokens);
  metrics.request_throughput = per_second(metrics.completed, duration_s);
  metrics.request_goodput = goodput.empty() ? 0 : per_second(within_bounds, duration_s);
  metrics.output_throughput = per_second(output, duration_s);
  metrics.total_token_throughput = per_second(output + static_cast<double>(metrics.input_tokens), duration_s);
  if (!good.empty()) {
    metrics.peak_output_throughput = peak_output(good);
    metrics.peak_concurrency = peak_concurrency(good);
  }
  add_latencies(collect(good), percentiles, metrics);
  return metrics;
}

}  // namespace polylora
