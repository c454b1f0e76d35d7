// What a list of request records amounts to, computed as vLLM's benchmark does.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "load/request_record.h"

namespace polylora {

/// The q-th percentile, 0 <= q <= 100, interpolated linearly between neighbours (numpy's default). 0 of
/// nothing.
double percentile(std::vector<double> values, double q);
inline double median(std::vector<double> values) {
  return percentile(std::move(values), 50);
}

double mean(std::span<const double> values);                // 0 of nothing
double standard_deviation(std::span<const double> values);  // of the population; 0 of nothing

struct LatencySummary {
  double mean_ms = 0;
  double median_ms = 0;
  double std_ms = 0;
  std::vector<std::pair<double, double>> percentiles_ms;  // (q, value)
};

/// Of seconds.
LatencySummary summarize_latency(const std::vector<double>& seconds, std::span<const double> percentiles);

/// Bounds in milliseconds that a good request keeps; absent: no bound.
struct Goodput {
  std::optional<double> ttft_ms;
  std::optional<double> tpot_ms;
  std::optional<double> e2el_ms;

  bool empty() const { return !ttft_ms && !tpot_ms && !e2el_ms; }
};

/// Throughputs are per second of the whole run. Failed requests count nowhere but in `failed`.
struct LoadMetrics {
  int completed = 0;
  int failed = 0;
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  double request_throughput = 0;
  double request_goodput = 0;
  double output_throughput = 0;
  double total_token_throughput = 0;
  double peak_output_throughput = 0;  // pieces of output in the best second
  int peak_concurrency = 0;
  LatencySummary ttft;   // to the first piece of output
  LatencySummary tpot;   // per output token after the first; requests with one token have none
  LatencySummary itl;    // between pieces of output, of all requests together
  LatencySummary e2el;   // to the last piece of output
  LatencySummary queue;  // held back by the limit of concurrency
  LatencySummary e2el_with_queue;
};

LoadMetrics summarize_load(std::span<const RequestRecord> records, double duration_s,
                           std::span<const double> percentiles, const Goodput& goodput = {});

}  // namespace polylora
