// What the program says on the terminal: stderr, so that stdout carries answers only.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <string_view>
#include <utility>

#include "base/progress.h"

namespace polylora {

void print_line(std::string_view line);

/// One line: "polylora: warning: …".
template <typename... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  print_line("polylora: warning: " + fmt::format(format, std::forward<Args>(args)...));
}

/// "  label     text": one line of the start-up report.
template <typename... Args>
void report(std::string_view label, fmt::format_string<Args...> format, Args&&... args) {
  print_line(fmt::format("  {:<10}", label) + fmt::format(format, std::forward<Args>(args)...));
}

/// A bar on the terminal's last line, drawn once work has taken a second; nothing when stderr is no terminal.
class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// Valid as long as the bar.
  ProgressFn callback();

 private:
  using Clock = std::chrono::steady_clock;
  void draw(std::string_view what, double fraction);

  const bool terminal_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point next_draw_;
  bool drawn_ = false;
};

}  // namespace polylora
