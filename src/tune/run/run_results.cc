#include "tune/run/run_results.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "base/file.h"
#include "io/json_file.h"

namespace polylora {
namespace {

using nlohmann::json;

double per_second(int64_t count, double seconds) {
  return seconds > 0 ? rounded(static_cast<double>(count) / seconds, 3) : 0.0;
}

/// PREFIX_runtime, PREFIX_samples_per_second, PREFIX_steps_per_second.
void add_speed(json& metrics, const std::string& prefix, double seconds, int64_t samples, int64_t steps) {
  metrics[prefix + "_runtime"] = rounded(seconds, 4);
  metrics[prefix + "_samples_per_second"] = per_second(samples, seconds);
  metrics[prefix + "_steps_per_second"] = per_second(steps, seconds);
}

json read_object_or_empty(const std::filesystem::path& path) {
  try {
    return read_json_object_if_present(path);
  } catch (const Error&) {
    return json::object();
  }
}

std::string results_text(const json& metrics) {
  return metrics.dump(4, ' ', false, json::error_handler_t::replace);
}

}  // namespace

double rounded(double value, int digits) {
  return std::strtod(fmt::format("{:.{}f}", value, digits).c_str(), nullptr);
}

std::string duration_text(double seconds) {
  const auto total = static_cast<int64_t>(std::max(seconds, 0.0));
  const int64_t days = total / 86400, rest = total % 86400;
  const std::string clock = fmt::format("{}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
  return days == 0 ? clock : fmt::format("{} day{}, {}", days, days == 1 ? "" : "s", clock);
}

int64_t parse_duration(const std::string& text) {
  const size_t comma = text.find(", ");
  long days = 0, hours = 0, minutes = 0, seconds = 0;
  // The widths keep what a broken file says from overflowing.
  if (comma != std::string::npos && std::sscanf(text.c_str(), "%9ld", &days) != 1) return 0;
  const char* clock = text.c_str() + (comma == std::string::npos ? 0 : comma + 2);
  if (std::sscanf(clock, "%4ld:%2ld:%2ld", &hours, &minutes, &seconds) != 3) return 0;
  return ((days * 24 + hours) * 60 + minutes) * 60 + seconds;
}

json eval_metrics(const EvalLog& log) {
  json metrics = {{log.prefix + "_loss", log.loss}};
  add_speed(metrics, log.prefix, log.runtime_s, log.samples, log.batches);
  for (const auto& [name, value] : log.extra) metrics[log.prefix + "_" + name] = value;
  return metrics;
}

json train_metrics(const RunPosition& at, const TrainSummary& summary) {
  json metrics = {{"train_loss", summary.train_loss}, {"total_flos", at.total_flos}};
  add_speed(metrics, "train", summary.runtime_s, summary.samples, at.step);
  for (const auto& [name, value] : summary.extra) metrics[name] = value;
  return metrics;
}

void write_results(const std::filesystem::path& folder, std::string_view split, const json& metrics) {
  json all = read_object_or_empty(folder / "all_results.json");
  all.update(metrics);
  write_file_atomic(folder / fmt::format("{}_results.json", split), results_text(metrics));
  write_file_atomic(folder / "all_results.json", results_text(all));
}

}  // namespace polylora
