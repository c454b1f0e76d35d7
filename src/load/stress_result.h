// What a stress run measured, and what it amounts to.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "load/load_run.h"
#include "load/stress_grid.h"

namespace polylora {

/// One server in one round.
struct StressSide {
  LoadResult load;
  size_t resident_bytes = 0;  // of the server, right after the load
};

/// The same requests on both servers, one after the other.
struct StressRound {
  StressSide merged;
  StressSide adapters;
};

/// Over all rounds of a cell.
struct SideSummary {
  double output_throughput = 0;  // tokens/s, median of the rounds
  double ttft_p50_ms = 0, ttft_p99_ms = 0;
  double itl_p50_ms = 0, itl_p99_ms = 0;
  size_t resident_bytes = 0;  // largest
  int completed = 0;
  int failed = 0;
  std::string first_error;
};

struct Spread {
  double median = 0, smallest = 0, largest = 0;
};
Spread spread_of(const std::vector<double>& values);  // zeros of nothing

struct ChurnSummary {
  int done = 0;
  int failed = 0;
  double p50_ms = 0, p99_ms = 0;
  std::string first_error;
};

struct CellResult {
  StressCell cell;
  SideSummary merged;
  SideSummary adapters;
  std::vector<double> ratios;  // adapters ÷ merged, throughput, by round
  Spread ratio;
  double fairness = 1;
  ChurnSummary churn;
};
CellResult summarize_cell(const StressCell& cell, std::span<const StressRound> rounds);

/// Jain's index of the adapters' speeds: 1 when all are equal, 1/n when one of n has everything. An adapter's
/// speed is its output tokens per second during which a request of it ran, so popular adapters are not fast
/// for that.
double adapter_fairness(std::span<const RequestRecord* const> records);

struct StressLimits {
  std::vector<CellLimit> min_ratio;        // of the median
  std::vector<CellLimit> max_ttft_p99_ms;  // of the server with adapters
};
/// One line for each cell that breaks a limit, had a failed request, or a failed load or unload of an
/// adapter.
std::vector<std::string> stress_violations(std::span<const CellResult> results, const StressLimits& limits);

/// Everything that a report holds.
struct StressReport {
  std::vector<std::pair<std::string, std::string>> facts;  // label, value: model, machine, flags
  std::vector<CellResult> results;
  std::vector<std::string> violations;
};
std::string stress_table(const StressReport& report);
nlohmann::ordered_json stress_json(const StressReport& report);

/// One self-contained page: facts, verdict, plots, table. (load/stress_html.cc)
std::string stress_html(const StressReport& report);

}  // namespace polylora
