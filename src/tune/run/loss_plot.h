// training_loss.png and its relatives: a metric over the updates, as logged and smoothed.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace polylora {

struct LossPlot {
  std::string title;
  std::string y_label;
  std::vector<double> steps;  // ascending
  std::vector<double> values;
};

/// Exponential moving average, as LLaMA-Factory smooths: s_0 = v_0, s_i = w s_(i-1) + (1 - w) v_i with
/// w = 1.8 (1 / (1 + e^(-0.05 n)) - 0.5).
std::vector<double> smooth(const std::vector<double>& values);

/// Tick positions inside [low, high], at most about `count`, one of 1, 2, 2.5, 5 times a power of ten apart.
std::vector<double> axis_ticks(double low, double high, int count);

/// Draws values and their smoothed course; replaces the file atomically. Values that are not finite are left
/// out. Throws kIo naming the file.
void draw_loss_plot(const std::filesystem::path& png, const LossPlot& plot);

/// training_KEY.png (`/` in the key becomes `_`) for every key that the entries of `log_history` (RunLog's)
/// have finite numbers for; returns the files written.
std::vector<std::filesystem::path> write_loss_plots(const std::filesystem::path& folder,
                                                    const nlohmann::json& log_history,
                                                    const std::vector<std::string>& keys);

}  // namespace polylora
