// What a setting's text means for a key that wants a number, a switch, names, … YAML 1.1 as PyYAML and
// OmegaConf read it. Every function throws kInvalidArgument that names the place, the value and what is
// wanted.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tune/config/config_reader.h"

namespace polylora {

/// The numbers a key takes: least <= x <= most, without an end that is `open`.
struct Range {
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  bool open_least = false;
  bool open_most = false;

  bool contains(double x) const;
  std::string described() const;  // " above 0", " from 0 to 1", ""
};

inline constexpr Range kAnyNumber = {};
inline constexpr Range kNotNegative = {.least = 0};
inline constexpr Range kPositive = {.least = 0, .open_least = true};
inline constexpr Range kAtLeastOne = {.least = 1};
inline constexpr Range kShare = {.least = 0, .most = 1, .open_most = true};  // [0, 1)

/// true/false, yes/no, on/off, and 1/0, t/f, y/n as transformers takes them on a command line.
std::optional<bool> parse_switch(std::string_view text);
/// A finite decimal number; underscores between digits are allowed.
std::optional<double> parse_decimal(std::string_view text);

bool as_switch(const Setting& setting);
double as_number(const Setting& setting, const Range& range);
/// Also takes 8.0 and 1e3.
int64_t as_integer(const Setting& setting, const Range& range);
std::string as_text(const Setting& setting);
/// A list, or comma-separated text; no name may be empty.
std::vector<std::string> as_names(const Setting& setting);
std::vector<double> as_numbers(const Setting& setting, const Range& range);
/// A mapping of names to numbers, or that as text ("{min_lr: 1e-6}", JSON).
std::vector<std::pair<std::string, double>> as_named_numbers(const Setting& setting);

/// "x.yaml:3: optim: 'lion' is not <wanted>".
[[noreturn]] void fail_wanted(const Setting& setting, std::string_view wanted);

}  // namespace polylora
