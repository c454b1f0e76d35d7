// Which plots a stress report shows.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "load/stress_result.h"
#include "load/svg_plot.h"

namespace polylora {

struct PlotSection {
  std::string title;
  std::string caption;
  std::vector<Plot> plots;  // one per combination of what neither axis nor series show
};

/// Ratio to merged by number of adapters, by concurrency and by popularity, and memory by number of adapters.
/// What does not vary has no plots; a single adapter ("one") is shown beside every number of adapters.
std::vector<PlotSection> stress_plots(std::span<const CellResult> results);

}  // namespace polylora
