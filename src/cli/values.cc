#include "cli/values.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace polylora {
namespace {

struct Suffix {
  char letter;
  double factor;
};
constexpr std::array<Suffix, 8> kSuffixes = {{{'k', 1e3},
                                              {'m', 1e6},
                                              {'g', 1e9},
                                              {'t', 1e12},
                                              {'K', 0x1p10},
                                              {'M', 0x1p20},
                                              {'G', 0x1p30},
                                              {'T', 0x1p40}}};

/// Cuts a unit letter off the end of `text` and returns what it multiplies by.
double take_factor(std::string_view& text) {
  for (const std::string_view unit : {"iB", "B"}) {
    if (text.ends_with(unit)) {
      text.remove_suffix(unit.size());
      break;
    }
  }
  for (const Suffix& suffix : kSuffixes) {
    if (text.ends_with(suffix.letter)) {
      text.remove_suffix(1);
      return suffix.factor;
    }
  }
  return 1;
}

}  // namespace

int64_t parse_count(std::string_view flag, std::string_view text) {
  std::string_view digits = text;
  const double factor = take_factor(digits);
  double value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, std::chars_format::fixed);
  const double scaled = value * factor;
  const bool whole = scaled == std::floor(scaled) && std::abs(scaled) < 0x1p62;
  if (error != std::errc{} || end != digits.data() + digits.size() || !whole) {
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is not a whole number (2048, 1k = 1000, 1K = 1024, 2G, …)",
         flag, text);
  }
  return static_cast<int64_t>(scaled);
}

std::string format_bytes(size_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (value >= 0x1p30) return fmt::format("{:.1f} GiB", value / 0x1p30);
  if (value >= 0x1p20) return fmt::format("{:.{}f} MiB", value / 0x1p20, value < 10 * 0x1p20 ? 1 : 0);
  return fmt::format("{:.0f} KiB", value / 0x1p10);
}

int edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<int>> cost(a.size() + 1, std::vector<int>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = static_cast<int>(i + j);
        continue;
      }
      const int replace = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({replace, cost[i - 1][j] + 1, cost[i][j - 1] + 1});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  }
  return cost[a.size()][b.size()];
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  int best_distance = std::max(2, static_cast<int>(word.size()) / 3) + 1;
  for (const std::string& candidate : candidates) {
    const int distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace polylora
