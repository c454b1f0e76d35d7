#include "load/svg_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/utf8.h"

namespace polylora {
namespace {

// Pixels of the drawing's own coordinates.
constexpr double kWidth = 440, kHeight = 230;
constexpr double kLeft = 46, kRight = 14, kTop = 12, kBottom = 42;
constexpr double kDodge = 7;  // between points of different series at the same x
constexpr double kWhisker = 3.5;
constexpr int kMaxTicks = 6;

/// 1, 2 or 5 times a power of ten, such that at most kMaxTicks steps reach `top`.
double tick_step(double top) {
  const double raw = top / kMaxTicks;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw) return factor * power;
  }
  return 10 * power;
}

class Drawing {
 public:
  explicit Drawing(const Plot& plot) : plot_(plot) {
    double largest = plot.reference.value_or(0);
    for (const PlotSeries& series : plot.series) {
      for (const auto& point : series.points) {
        if (point) largest = std::max({largest, point->value, point->high});
      }
    }
    top_ = largest > 0 && std::isfinite(largest) ? largest * 1.05 : 1;
  }

  std::string text() {
    draw_axes();
    for (size_t s = 0; s < plot_.series.size(); ++s) draw_series(s);
    return fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">{}</svg>", kWidth, kHeight,
                       html_escape(plot_.title), body_);
  }

 private:
  double y(double value) const { return kTop + (kHeight - kTop - kBottom) * (1 - value / top_); }
  double x(size_t index) const {
    return kLeft + (kWidth - kLeft - kRight) * (static_cast<double>(index) + 0.5) /
                       static_cast<double>(plot_.x.size());
  }
  double x_of(size_t index, size_t series) const {
    return x(index) +
           kDodge * (static_cast<double>(series) - (static_cast<double>(plot_.series.size()) - 1) / 2);
  }

  void line(std::string_view style, double x1, double y1, double x2, double y2) {
    body_ += fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>",
                         style, x1, y1, x2, y2);
  }
  void label(double at_x, double at_y, std::string_view anchor, std::string_view text) {
    body_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>", at_x, at_y, anchor,
                         html_escape(text));
  }

  void draw_axes() {
    const double step = tick_step(top_);
    for (int i = 0; i * step <= top_; ++i) {
      line("grid", kLeft, y(i * step), kWidth - kRight, y(i * step));
      label(kLeft - 6, y(i * step) + 4, "end", fmt::format("{:g}", i * step));
    }
    if (plot_.reference) line("reference", kLeft, y(*plot_.reference), kWidth - kRight, y(*plot_.reference));
    for (size_t i = 0; i < plot_.x.size(); ++i) label(x(i), kHeight - kBottom + 17, "middle", plot_.x[i]);
    label((kLeft + kWidth - kRight) / 2, kHeight - 5, "middle", plot_.x_label);
  }

  void draw_series(size_t index) {
    const PlotSeries& series = plot_.series[index];
    body_ += fmt::format("<g class=\"s{}\">", series.colour % kPlotColours);
    std::string path;
    for (size_t i = 0; i < series.points.size(); ++i) {
      if (!series.points[i]) continue;
      const double at = x_of(i, index);
      path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", at, y(series.points[i]->value));
      draw_point(series, *series.points[i], i, at);
    }
    if (plot_.connect) body_ += fmt::format("<polyline points=\"{}\"/>", path);
    body_ += "</g>";
  }

  void draw_point(const PlotSeries& series, const PlotPoint& point, size_t index, double at) {
    if (point.high > point.low) {
      line("range", at, y(point.low), at, y(point.high));
      line("range", at - kWhisker, y(point.low), at + kWhisker, y(point.low));
      line("range", at - kWhisker, y(point.high), at + kWhisker, y(point.high));
    }
    body_ += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.4\"><title>{}, {}: {:.4g} ({:.4g} to "
        "{:.4g})</title></circle>",
        at, y(point.value), html_escape(series.name), html_escape(plot_.x[index]), point.value, point.low,
        point.high);
  }

  const Plot& plot_;
  double top_ = 1;
  std::string body_;
};

}  // namespace

std::string html_escape(std::string_view text) {
  std::string escaped;
  for (const char c : to_valid_utf8(text)) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string svg_plot(const Plot& plot) {
  std::string legend;
  for (const PlotSeries& series : plot.series)
    legend += fmt::format("<span class=\"s{}\"><i></i>{}</span>", series.colour % kPlotColours,
                          html_escape(series.name));
  return fmt::format("<figure><figcaption>{}</figcaption>{}<div class=\"legend\">{}</div></figure>\n",
                     html_escape(plot.title), Drawing(plot).text(), legend);
}

}  // namespace polylora
