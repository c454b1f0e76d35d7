#include "tune/run/loss_plot.h"

#include <cairo/cairo.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace polylora {
namespace {

namespace fs = std::filesystem;

// In units of a 640 × 480 picture, which is written with twice as many pixels.
constexpr double kWidth = 640, kHeight = 480, kPixelsPerUnit = 2;
constexpr double kLeft = 86, kRight = 620, kTop = 48, kBottom = 424;
constexpr double kTextSize = 13, kTitleSize = 15;
constexpr double kMargin = 0.05;                 // of the range, free on both sides of the data
constexpr size_t kMaxTitle = 64, kMaxLabel = 7;  // characters that fit

struct Color {
  double red, green, blue, alpha = 1;
};
constexpr Color kInk{0.15, 0.15, 0.15}, kGrid{0.88, 0.88, 0.88}, kFrame{0.45, 0.45, 0.45};
constexpr Color kRaw{0.12, 0.47, 0.71, 0.4}, kSmooth{0.12, 0.47, 0.71};

struct Range {
  double low = 0, high = 1;
};

Range padded_range(const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  double width = *high - *low;
  if (width < std::abs(*high) * 1e-9) width = 0;  // ticks closer than doubles can count
  const double margin = width > 0 ? width * kMargin : std::max(std::abs(*low) * kMargin, 1e-3);
  return {*low - margin, *high + margin};
}

/// Enough decimals to tell neighbouring ticks apart.
std::vector<std::string> tick_labels(const std::vector<double>& ticks) {
  int decimals = 0;
  const double distance = ticks.size() > 1 ? ticks[1] - ticks[0] : 1;
  while (decimals < 9 && std::abs(std::remainder(distance, std::pow(10.0, -decimals))) > distance * 1e-6)
    ++decimals;
  std::vector<std::string> labels;
  for (const double tick : ticks) {
    std::string label = fmt::format("{:.{}f}", tick + 0.0, decimals);
    if (label.size() > kMaxLabel) label = fmt::format("{:.3g}", tick + 0.0);
    labels.push_back(std::move(label));
  }
  return labels;
}

std::vector<double> whole_ticks(std::vector<double> ticks) {
  std::erase_if(ticks, [](double tick) { return tick != std::floor(tick); });
  return ticks;
}

class Canvas {
 public:
  Canvas()
      : surface_(cairo_image_surface_create(CAIRO_FORMAT_RGB24, static_cast<int>(kWidth * kPixelsPerUnit),
                                            static_cast<int>(kHeight * kPixelsPerUnit)),
                 cairo_surface_destroy),
        context_(cairo_create(surface_.get()), cairo_destroy) {
    cairo_scale(context_.get(), kPixelsPerUnit, kPixelsPerUnit);
    cairo_set_source_rgb(context_.get(), 1, 1, 1);
    cairo_paint(context_.get());
    cairo_select_font_face(context_.get(), "DejaVu Sans", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_line_join(context_.get(), CAIRO_LINE_JOIN_ROUND);
  }

  void line(const std::vector<std::pair<double, double>>& points, const Color& color, double width) {
    if (points.empty()) return;
    set_color(color);
    cairo_set_line_width(context_.get(), width);
    cairo_new_path(context_.get());
    for (const auto& [x, y] : points) cairo_line_to(context_.get(), x, y);
    cairo_stroke(context_.get());
  }

  void dot(double x, double y, const Color& color) {
    set_color(color);
    cairo_new_path(context_.get());
    cairo_arc(context_.get(), x, y, 3, 0, 2 * std::acos(-1.0));
    cairo_fill(context_.get());
  }

  void box(double x, double y, double width, double height, const Color& fill, const Color& edge) {
    cairo_rectangle(context_.get(), x, y, width, height);
    set_color(fill);
    cairo_fill_preserve(context_.get());
    set_color(edge);
    cairo_set_line_width(context_.get(), 1);
    cairo_stroke(context_.get());
  }

  /// `align`: 0 starts at x, 0.5 is centred on it, 1 ends there. y is the baseline.
  void text(const std::string& text, double x, double y, double align, double size = kTextSize) {
    cairo_set_font_size(context_.get(), size);
    set_color(kInk);
    cairo_move_to(context_.get(), x - align * text_width(text), y);
    cairo_show_text(context_.get(), text.c_str());
  }

  /// Upwards, centred on (x, y).
  void vertical_text(const std::string& text, double x, double y) {
    cairo_save(context_.get());
    cairo_translate(context_.get(), x, y);
    cairo_rotate(context_.get(), -std::acos(0.0));
    this->text(text, 0, 0, 0.5);
    cairo_restore(context_.get());
  }

  std::string png() {
    std::string bytes;
    const auto append = [](void* out, const unsigned char* data, unsigned int length) {
      static_cast<std::string*>(out)->append(reinterpret_cast<const char*>(data), length);
      return CAIRO_STATUS_SUCCESS;
    };
    const cairo_status_t status = cairo_surface_write_to_png_stream(surface_.get(), append, &bytes);
    check(status == CAIRO_STATUS_SUCCESS, cairo_status_to_string(status));
    return bytes;
  }

 private:
  void set_color(const Color& color) {
    cairo_set_source_rgba(context_.get(), color.red, color.green, color.blue, color.alpha);
  }
  double text_width(const std::string& text) {
    cairo_text_extents_t extents;
    cairo_text_extents(context_.get(), text.c_str(), &extents);
    return extents.x_advance;
  }

  std::unique_ptr<cairo_surface_t, decltype(&cairo_surface_destroy)> surface_;
  std::unique_ptr<cairo_t, decltype(&cairo_destroy)> context_;
};

/// The data's coordinates on the canvas.
struct Axes {
  Range x, y;

  double map_x(double value) const { return kLeft + (value - x.low) / (x.high - x.low) * (kRight - kLeft); }
  double map_y(double value) const { return kBottom - (value - y.low) / (y.high - y.low) * (kBottom - kTop); }
};

void draw_axes(Canvas& canvas, const Axes& axes, const LossPlot& plot) {
  constexpr double kTick = 4;
  const std::vector<double> x_ticks = whole_ticks(axis_ticks(axes.x.low, axes.x.high, 8));
  const std::vector<double> y_ticks = axis_ticks(axes.y.low, axes.y.high, 8);
  const std::vector<std::string> x_labels = tick_labels(x_ticks), y_labels = tick_labels(y_ticks);
  for (size_t i = 0; i < x_ticks.size(); ++i) {
    const double x = axes.map_x(x_ticks[i]);
    canvas.line({{x, kTop}, {x, kBottom}}, kGrid, 0.8);
    canvas.line({{x, kBottom}, {x, kBottom + kTick}}, kFrame, 1);
    canvas.text(x_labels[i], x, kBottom + 19, 0.5);
  }
  for (size_t i = 0; i < y_ticks.size(); ++i) {
    const double y = axes.map_y(y_ticks[i]);
    canvas.line({{kLeft, y}, {kRight, y}}, kGrid, 0.8);
    canvas.line({{kLeft - kTick, y}, {kLeft, y}}, kFrame, 1);
    canvas.text(y_labels[i], kLeft - 8, y + 4.5, 1);
  }
  const Color transparent{0, 0, 0, 0};
  canvas.box(kLeft, kTop, kRight - kLeft, kBottom - kTop, transparent, kFrame);
  canvas.text("step", (kLeft + kRight) / 2, kBottom + 40, 0.5);
  canvas.vertical_text(plot.y_label, 18, (kTop + kBottom) / 2);
}

/// The end of a long title says more: it is the folder's name.
std::string fitting(const std::string& title) {
  if (title.size() <= kMaxTitle) return title;
  size_t cut = title.size() - kMaxTitle;
  while (cut < title.size() && (static_cast<unsigned char>(title[cut]) & 0xc0) == 0x80) ++cut;
  return "… " + title.substr(cut);
}

void draw_course(Canvas& canvas, const Axes& axes, const std::vector<double>& steps,
                 const std::vector<double>& values, const Color& color, double width) {
  std::vector<std::pair<double, double>> points;
  for (size_t i = 0; i < steps.size(); ++i) points.emplace_back(axes.map_x(steps[i]), axes.map_y(values[i]));
  canvas.line(points, color, width);
  if (points.size() == 1) canvas.dot(points[0].first, points[0].second, color);
}

/// In the upper corner that the curve does not run into: falling ones leave the right one free.
void draw_legend(Canvas& canvas, const std::vector<double>& values) {
  constexpr double kBoxWidth = 122, kBoxHeight = 52, kInset = 9;
  const bool falling = values.front() >= values.back();
  const double x = falling ? kRight - kInset - kBoxWidth : kLeft + kInset, y = kTop + kInset;
  canvas.box(x, y, kBoxWidth, kBoxHeight, {1, 1, 1, 0.85}, {0.8, 0.8, 0.8});
  const std::pair<const char*, Color> rows[] = {{"original", kRaw}, {"smoothed", kSmooth}};
  double middle = y + 16;
  for (const auto& [label, color] : rows) {
    canvas.line({{x + 9, middle}, {x + 36, middle}}, color, 1.8);
    canvas.text(label, x + 44, middle + 4.5, 0);
    middle += 20;
  }
}

LossPlot only_finite(const LossPlot& plot) {
  LossPlot finite{plot.title, plot.y_label, {}, {}};
  for (size_t i = 0; i < std::min(plot.steps.size(), plot.values.size()); ++i) {
    if (!std::isfinite(plot.values[i])) continue;
    finite.steps.push_back(plot.steps[i]);
    finite.values.push_back(plot.values[i]);
  }
  return finite;
}

LossPlot plot_of(const nlohmann::json& log_history, const std::string& key) {
  LossPlot plot{"", key, {}, {}};
  for (const auto& entry : log_history) {
    const auto value = entry.find(key), step = entry.find("step");
    if (value == entry.end() || step == entry.end() || !value->is_number() || !step->is_number()) continue;
    plot.steps.push_back(*step);
    plot.values.push_back(*value);
  }
  return only_finite(plot);
}

}  // namespace

std::vector<double> smooth(const std::vector<double>& values) {
  const double weight = 1.8 * (1 / (1 + std::exp(-0.05 * static_cast<double>(values.size()))) - 0.5);
  std::vector<double> smoothed;
  for (const double value : values) {
    const double last = smoothed.empty() ? value : smoothed.back();
    smoothed.push_back(last * weight + (1 - weight) * value);
  }
  return smoothed;
}

std::vector<double> axis_ticks(double low, double high, int count) {
  const double rough = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double distance = power * 10;
  for (const double factor : {5.0, 2.5, 2.0, 1.0}) {
    if (factor * power >= rough) distance = factor * power;
  }
  std::vector<double> ticks;
  for (double n = std::ceil(low / distance); n * distance <= high; ++n) ticks.push_back(n * distance);
  return ticks;
}

void draw_loss_plot(const fs::path& png, const LossPlot& plot) {
  const LossPlot data = only_finite(plot);
  check(!data.values.empty(), "a plot of nothing");
  const Axes axes{padded_range(data.steps), padded_range(data.values)};
  Canvas canvas;
  draw_axes(canvas, axes, data);
  canvas.text(fitting(data.title), (kLeft + kRight) / 2, kTop - 14, 0.5, kTitleSize);
  draw_course(canvas, axes, data.steps, data.values, kRaw, 1.6);
  draw_course(canvas, axes, data.steps, smooth(data.values), kSmooth, 1.8);
  draw_legend(canvas, data.values);
  write_file_atomic(png, canvas.png());
}

std::vector<fs::path> write_loss_plots(const fs::path& folder, const nlohmann::json& log_history,
                                       const std::vector<std::string>& keys) {
  std::vector<fs::path> written;
  for (const std::string& key : keys) {
    LossPlot plot = plot_of(log_history, key);
    if (plot.values.empty()) continue;
    std::string file_key = key;
    std::replace(file_key.begin(), file_key.end(), '/', '_');
    plot.title = fmt::format("training {} of {}", key, folder.string());
    written.push_back(folder / fmt::format("training_{}.png", file_key));
    draw_loss_plot(written.back(), plot);
  }
  return written;
}

}  // namespace polylora
