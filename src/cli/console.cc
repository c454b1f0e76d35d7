#include "cli/console.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace polylora {
namespace {

constexpr int kBarWidth = 30;
constexpr std::chrono::seconds kQuiet{1};
constexpr std::chrono::milliseconds kInterval{100};

}  // namespace

void print_line(std::string_view line) {
  fmt::print(stderr, "{}\n", line);
}

ProgressBar::ProgressBar() : terminal_(isatty(STDERR_FILENO) == 1), next_draw_(start_ + kQuiet) {}

ProgressBar::~ProgressBar() {
  if (drawn_) fmt::print(stderr, "\r\033[K");
}

ProgressFn ProgressBar::callback() {
  if (!terminal_) return {};
  return [this](std::string_view what, double fraction) { draw(what, fraction); };
}

void ProgressBar::draw(std::string_view what, double fraction) {
  const Clock::time_point now = Clock::now();
  if (now < next_draw_) return;
  next_draw_ = now + kInterval;
  drawn_ = true;
  const auto filled = static_cast<size_t>(std::clamp(fraction, 0.0, 1.0) * kBarWidth);
  fmt::print(stderr, "\r\033[K  {} [{}{}] {:3.0f} %", what, std::string(filled, '#'),
             std::string(kBarWidth - filled, '.'), 100 * fraction);
  std::fflush(stderr);
}

}  // namespace polylora
