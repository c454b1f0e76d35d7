#include "load/stress_result.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "load/load_metrics.h"

namespace polylora {
namespace {

using SideMember = StressSide StressRound::*;

double output_throughput(const LoadResult& load) {
  return summarize_load(load.records, load.duration_s, {}).output_throughput;
}

std::vector<const RequestRecord*> records_of(std::span<const StressRound> rounds, SideMember side) {
  std::vector<const RequestRecord*> records;
  for (const StressRound& round : rounds) {
    for (const RequestRecord& record : (round.*side).load.records) records.push_back(&record);
  }
  return records;
}

void add_latencies(const std::vector<const RequestRecord*>& records, SideSummary& summary) {
  std::vector<double> ttft, itl;
  for (const RequestRecord* record : records) {
    if (!record->success) {
      if (summary.failed++ == 0) summary.first_error = record->error;
      continue;
    }
    ++summary.completed;
    ttft.push_back(record->ttft_s * 1000);
    for (const double gap : record->itl_s) itl.push_back(gap * 1000);
  }
  summary.ttft_p50_ms = percentile(ttft, 50);
  summary.ttft_p99_ms = percentile(ttft, 99);
  summary.itl_p50_ms = percentile(itl, 50);
  summary.itl_p99_ms = percentile(itl, 99);
}

SideSummary summarize_side(std::span<const StressRound> rounds, SideMember side) {
  SideSummary summary;
  std::vector<double> throughputs;
  for (const StressRound& round : rounds) {
    throughputs.push_back(output_throughput((round.*side).load));
    summary.resident_bytes = std::max(summary.resident_bytes, (round.*side).resident_bytes);
  }
  summary.output_throughput = percentile(throughputs, 50);
  add_latencies(records_of(rounds, side), summary);
  return summary;
}

ChurnSummary summarize_churn(std::span<const StressRound> rounds) {
  ChurnSummary summary;
  std::vector<double> latencies;
  for (const StressRound& round : rounds) {
    for (const SideRecord& record : round.adapters.load.side) {
      if (record.error.empty()) {
        latencies.push_back(record.latency_s * 1000);
      } else if (summary.failed++ == 0) {
        summary.first_error = record.error;
      }
    }
  }
  summary.done = static_cast<int>(latencies.size());
  summary.p50_ms = percentile(latencies, 50);
  summary.p99_ms = percentile(latencies, 99);
  return summary;
}

}  // namespace

Spread spread_of(const std::vector<double>& values) {
  if (values.empty()) return {};
  const auto [smallest, largest] = std::minmax_element(values.begin(), values.end());
  return {percentile(values, 50), *smallest, *largest};
}

double adapter_fairness(std::span<const RequestRecord* const> records) {
  struct Service {
    double tokens = 0, seconds = 0;
  };
  std::map<std::string, Service> services;
  for (const RequestRecord* record : records) {
    if (!record->success || record->latency_s <= 0) continue;
    services[record->model].tokens += record->output_tokens;
    services[record->model].seconds += record->latency_s;
  }
  double sum = 0, squares = 0;
  for (const auto& [name, service] : services) {
    const double speed = service.tokens / service.seconds;
    sum += speed;
    squares += speed * speed;
  }
  return squares > 0 ? sum * sum / (static_cast<double>(services.size()) * squares) : 1;
}

CellResult summarize_cell(const StressCell& cell, std::span<const StressRound> rounds) {
  CellResult result;
  result.cell = cell;
  result.merged = summarize_side(rounds, &StressRound::merged);
  result.adapters = summarize_side(rounds, &StressRound::adapters);
  for (const StressRound& round : rounds) {
    const double merged = output_throughput(round.merged.load);
    result.ratios.push_back(merged > 0 ? output_throughput(round.adapters.load) / merged : 0);
  }
  result.ratio = spread_of(result.ratios);
  result.fairness = adapter_fairness(records_of(rounds, &StressRound::adapters));
  result.churn = summarize_churn(rounds);
  return result;
}

std::vector<std::string> stress_violations(std::span<const CellResult> results, const StressLimits& limits) {
  std::vector<std::string> lines;
  for (const CellResult& result : results) {
    const std::string name = result.cell.name();
    const auto failed = [&](std::string_view what, int count, const std::string& error) {
      if (count > 0)
        lines.push_back(fmt::format("{}: {} {} failed, the first with: {}", name, count, what, error));
    };
    failed("requests to the merged model", result.merged.failed, result.merged.first_error);
    failed("requests to adapters", result.adapters.failed, result.adapters.first_error);
    failed("loads and unloads of adapters", result.churn.failed, result.churn.first_error);
    if (const double* least = limit_of(limits.min_ratio, result.cell); least && result.ratio.median < *least)
      lines.push_back(fmt::format("{}: ratio {:.3f} is below {:.3f}", name, result.ratio.median, *least));
    const double* most = limit_of(limits.max_ttft_p99_ms, result.cell);
    if (most && result.adapters.ttft_p99_ms > *most)
      lines.push_back(
          fmt::format("{}: TTFT p99 {:.1f} ms is above {:.1f} ms", name, result.adapters.ttft_p99_ms, *most));
  }
  return lines;
}

}  // namespace polylora
