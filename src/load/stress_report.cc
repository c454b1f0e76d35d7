// The result of a stress run as a table and as JSON.
#include <fmt/format.h>

#include <algorithm>

#include "load/stress_result.h"

namespace polylora {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMib = 1 << 20;

double mib(size_t bytes) {
  return static_cast<double>(bytes) / kMib;
}

Json side_json(const SideSummary& side) {
  Json json = {{"output_throughput", side.output_throughput},
               {"ttft_p50_ms", side.ttft_p50_ms},
               {"ttft_p99_ms", side.ttft_p99_ms},
               {"itl_p50_ms", side.itl_p50_ms},
               {"itl_p99_ms", side.itl_p99_ms},
               {"resident_bytes", side.resident_bytes},
               {"completed", side.completed},
               {"failed", side.failed}};
  if (side.failed > 0) json["first_error"] = side.first_error;
  return json;
}

Json cell_json(const CellResult& result) {
  Json json = {{"name", result.cell.name()},
               {"popularity", popularity_name(result.cell.popularity)},
               {"adapters", result.cell.adapters},
               {"ranks", result.cell.ranks},
               {"concurrency", result.cell.concurrency},
               {"churn", result.cell.churn},
               {"merged", side_json(result.merged)},
               {"multi_adapter", side_json(result.adapters)},
               {"ratio",
                {{"median", result.ratio.median},
                 {"min", result.ratio.smallest},
                 {"max", result.ratio.largest},
                 {"rounds", result.ratios}}},
               {"fairness", result.fairness}};
  if (!result.cell.churn) return json;
  const ChurnSummary& churn = result.churn;
  json["churn_calls"] = {
      {"done", churn.done}, {"failed", churn.failed}, {"p50_ms", churn.p50_ms}, {"p99_ms", churn.p99_ms}};
  return json;
}

}  // namespace

std::string stress_table(const StressReport& report) {
  size_t width = 4;
  for (const CellResult& result : report.results) width = std::max(width, result.cell.name().size());
  std::string text = fmt::format("{:<{}}  {:>19}  {:>13}  {:>13}  {:>18}  {:>8}  {:>15}\n", "", width,
                                 "output tok/s", "TTFT ms", "ITL ms", "ratio to merged", "", "memory MiB");
  text += fmt::format("{:<{}}  {:>9} {:>9}  {:>6} {:>6}  {:>6} {:>6}  {:>6} {:>11}  {:>8}  {:>7} {:>7}\n",
                      "cell", width, "merged", "adapters", "p50", "p99", "p50", "p99", "median", "min-max",
                      "fairness", "merged", "adapt.");
  for (const CellResult& result : report.results) {
    const SideSummary& side = result.adapters;
    text += fmt::format(
        "{:<{}}  {:>9.1f} {:>9.1f}  {:>6.0f} {:>6.0f}  {:>6.1f} {:>6.1f}  {:>6.3f} {:>5.3f}-{:.3f}  {:>8.3f} "
        " {:>7.0f} "
        "{:>7.0f}\n",
        result.cell.name(), width, result.merged.output_throughput, side.output_throughput, side.ttft_p50_ms,
        side.ttft_p99_ms, side.itl_p50_ms, side.itl_p99_ms, result.ratio.median, result.ratio.smallest,
        result.ratio.largest, result.fairness, mib(result.merged.resident_bytes), mib(side.resident_bytes));
  }
  return text;
}

Json stress_json(const StressReport& report) {
  Json json;
  json["facts"] = Json::object();
  for (const auto& [label, value] : report.facts) json["facts"][label] = value;
  json["cells"] = Json::array();
  for (const CellResult& result : report.results) json["cells"].push_back(cell_json(result));
  json["violations"] = report.violations;
  return json;
}

}  // namespace polylora
