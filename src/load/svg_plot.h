// Small plots as SVG text for HTML pages. Colours and fonts come from the page: series i has the class
// "s<i>".
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace polylora {

/// A value with the range that its repetitions span.
struct PlotPoint {
  double value = 0, low = 0, high = 0;
};

struct PlotSeries {
  std::string name;
  size_t colour = 0;                             // of the palette, kPlotColours
  std::vector<std::optional<PlotPoint>> points;  // one per x
};

inline constexpr size_t kPlotColours = 6;

struct Plot {
  std::string title;
  std::string x_label;
  std::vector<std::string> x;       // evenly spaced
  bool connect = true;              // lines between the points of a series
  std::optional<double> reference;  // a line across the plot at this value
  std::vector<PlotSeries> series;
};

/// <figure> with the title, the plot and its legend. The value axis begins at 0.
std::string svg_plot(const Plot& plot);

/// `text` with the characters that HTML gives a meaning escaped.
std::string html_escape(std::string_view text);

}  // namespace polylora
