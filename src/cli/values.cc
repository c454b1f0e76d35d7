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

double parse_number(std::string_view flag, std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || std::isnan(value))
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is not a number", flag, text);
  return value;
}

std::vector<std::string> split_list(std::string_view flag, std::string_view text) {
  std::vector<std::string> items;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    items.emplace_back(text.substr(begin, end - begin));
    if (items.back().empty()) fail(ErrorCode::kInvalidArgument, "{}: '{}' has an empty item", flag, text);
    begin = end + 1;
  }
  return items;
}

std::string format_bytes(size_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (value >= 0x1p30) return fmt::format("{:.1f} GiB", value / 0x1p30);
  if (value >= 0x1p20) return fmt::format("{:.{}f} MiB", value / 0x1p20, value < 10 * 0x1p20 ? 1 : 0);
  return fmt::format("{:.0f} KiB", value / 0x1p10);
}

}  // namespace polylora
