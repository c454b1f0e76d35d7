#include "load/stress_plots.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <utility>

namespace polylora {
namespace {

/// A property of a cell as the text of an axis, a legend or a title; empty: says nothing.
using Property = std::function<std::string(const StressCell&)>;
using Measure = std::function<PlotPoint(const CellResult&)>;

struct Axes {
  std::string title;
  std::string caption;
  std::string x_label;
  Property x, series, panel;
  Measure measure;
  bool connect = true;
  std::optional<double> reference;
  /// A single adapter belongs to panels of any number of adapters.
  bool one_everywhere = false;
};

std::vector<std::string> distinct_values(std::span<const CellResult> results, const Property& property,
                                         const std::function<bool(const StressCell&)>& wanted) {
  std::vector<std::string> values;
  for (const CellResult& result : results) {
    if (!wanted(result.cell)) continue;
    std::string value = property(result.cell);
    if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(std::move(value));
  }
  return values;
}

bool all_numbers(const std::vector<std::string>& values) {
  return std::all_of(values.begin(), values.end(), [](const std::string& value) {
    return value.find_first_not_of("0123456789") == std::string::npos;
  });
}

void sort_numbers(std::vector<std::string>& values) {
  if (!all_numbers(values)) return;
  std::sort(values.begin(), values.end(),
            [](const std::string& a, const std::string& b) { return std::stoi(a) < std::stoi(b); });
}

/// "one" where the panel is of another number of adapters: the same ranks and churn, or the given adapter.
bool fits(const Axes& axes, const StressCell& cell, const std::string& panel, const StressCell& example) {
  if (axes.panel(cell) == panel) return true;
  if (!axes.one_everywhere || cell.popularity != Popularity::kOne) return false;
  StressCell many = cell;
  many.adapters = example.adapters;
  many.ranks = example.ranks;
  return (cell.ranks == example.ranks || cell.ranks == "given") && axes.panel(many) == panel;
}

Plot make_plot(std::span<const CellResult> results, const Axes& axes, const std::string& panel) {
  const auto owner = std::find_if(results.begin(), results.end(),
                                  [&](const CellResult& result) { return axes.panel(result.cell) == panel; });
  const auto wanted = [&](const StressCell& cell) { return fits(axes, cell, panel, owner->cell); };
  Plot plot;
  plot.title = panel;
  plot.x_label = axes.x_label;
  plot.connect = axes.connect;
  plot.reference = axes.reference;
  plot.x = distinct_values(results, axes.x, wanted);
  sort_numbers(plot.x);
  const std::vector<std::string> everywhere =
      distinct_values(results, axes.series, [](const StressCell&) { return true; });
  for (const std::string& name : distinct_values(results, axes.series, wanted)) {
    const auto colour = std::find(everywhere.begin(), everywhere.end(), name) - everywhere.begin();
    PlotSeries series{name, static_cast<size_t>(colour), {}};
    series.points.resize(plot.x.size());
    for (const CellResult& result : results) {
      if (!wanted(result.cell) || axes.series(result.cell) != name) continue;
      const auto at = std::find(plot.x.begin(), plot.x.end(), axes.x(result.cell)) - plot.x.begin();
      series.points[static_cast<size_t>(at)] = axes.measure(result);
    }
    plot.series.push_back(std::move(series));
  }
  return plot;
}

PlotSection make_section(std::span<const CellResult> results, const Axes& axes) {
  PlotSection section{axes.title, axes.caption, {}};
  for (const std::string& panel :
       distinct_values(results, axes.panel, [](const StressCell&) { return true; })) {
    Plot plot = make_plot(results, axes, panel);
    if (plot.x.size() > 1) section.plots.push_back(std::move(plot));
  }
  return section;
}

std::string popularity_of(const StressCell& cell) {
  return std::string(popularity_name(cell.popularity));
}
std::string adapters_of(const StressCell& cell) {
  return std::to_string(cell.adapters);
}
std::string concurrency_of(const StressCell& cell) {
  return std::to_string(cell.concurrency);
}
std::string streams(const StressCell& cell) {
  return fmt::format("{} stream{}", cell.concurrency, cell.concurrency == 1 ? "" : "s");
}
std::string ranks_of(const StressCell& cell) {
  const bool rank = cell.ranks.size() > 1 && cell.ranks[0] == 'r';
  return (rank ? "rank " + cell.ranks.substr(1) : cell.ranks + " ranks") + (cell.churn ? ", churn" : "");
}
std::string count_of(const StressCell& cell) {
  return fmt::format("{} adapter{}", cell.adapters, cell.adapters == 1 ? "" : "s");
}

PlotPoint ratio_of(const CellResult& result) {
  return {result.ratio.median, result.ratio.smallest, result.ratio.largest};
}

PlotPoint memory_of(const CellResult& result) {
  const double mib = static_cast<double>(result.adapters.resident_bytes) / (1 << 20);
  return {mib, mib, mib};
}

}  // namespace

std::vector<PlotSection> stress_plots(std::span<const CellResult> results) {
  const std::string what =
      "Output tokens per second with adapters, divided by the merged model's in the same round. "
      "Points are medians, bars span all rounds.";
  const std::vector<Axes> all = {
      {.title = "Ratio to merged by number of adapters",
       .caption = what,
       .x_label = "adapters",
       .x = adapters_of,
       .series = popularity_of,
       .panel = [](const StressCell& cell) { return ranks_of(cell) + ", " + streams(cell); },
       .measure = ratio_of,
       .connect = true,
       .reference = 1.0},
      {.title = "Ratio to merged by concurrency",
       .caption = what,
       .x_label = "concurrent requests",
       .x = concurrency_of,
       .series = popularity_of,
       .panel = [](const StressCell& cell) { return count_of(cell) + ", " + ranks_of(cell); },
       .measure = ratio_of,
       .connect = true,
       .reference = 1.0,
       .one_everywhere = true},
      {.title = "Ratio to merged by popularity",
       .caption = what,
       .x_label = "how requests choose adapters",
       .x = popularity_of,
       .series = streams,
       .panel = [](const StressCell& cell) { return count_of(cell) + ", " + ranks_of(cell); },
       .measure = ratio_of,
       .connect = false,
       .reference = 1.0,
       .one_everywhere = true},
      {.title = "Memory by number of adapters",
       .caption = "Resident MiB of the server with adapters after the load, the largest of all rounds. It "
                  "keeps what "
                  "earlier cells made it load, within its budget.",
       .x_label = "adapters",
       .x = adapters_of,
       .series = popularity_of,
       .panel = [](const StressCell& cell) { return ranks_of(cell) + ", " + streams(cell); },
       .measure = memory_of,
       .connect = true,
       .reference = {}}};
  std::vector<PlotSection> sections;
  for (const Axes& axes : all) {
    PlotSection section = make_section(results, axes);
    if (!section.plots.empty()) sections.push_back(std::move(section));
  }
  return sections;
}

}  // namespace polylora
