#include "tune/config/config_values.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace polylora {
namespace {

constexpr double kLargestInteger = 9007199254740992.0;  // 2^53: every integer up to here is a double

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

/// On a command line a list or mapping may come as text inside a text: '{"min_lr": 1e-6}'.
Setting opened(const Setting& setting) {
  if (setting.kind != Setting::Kind::kScalar) return setting;
  Setting value = parse_value(std::string(trimmed(setting.text)));
  value.key = setting.key;
  value.origin = setting.origin;
  return value;
}

bool has_leading_zero(std::string_view digits) {
  if (!digits.empty() && (digits.front() == '-' || digits.front() == '+')) digits.remove_prefix(1);
  return digits.size() > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9';
}

}  // namespace

bool Range::contains(double x) const {
  return (open_least ? x > least : x >= least) && (open_most ? x < most : x <= most);
}

std::string Range::described() const {
  const bool below = std::isfinite(least);
  const bool above = std::isfinite(most);
  std::string text;
  if (below) text += fmt::format("{}{}", open_least ? " above " : " of at least ", least);
  if (above) text += fmt::format("{}{}{}", below ? " and" : "", open_most ? " below " : " at most ", most);
  return text;
}

std::optional<bool> parse_switch(std::string_view text) {
  const std::string word = lower(trimmed(text));
  for (const char* yes : {"true", "yes", "on", "1", "t", "y"}) {
    if (word == yes) return true;
  }
  for (const char* no : {"false", "no", "off", "0", "f", "n"}) {
    if (word == no) return false;
  }
  return std::nullopt;
}

std::optional<double> parse_decimal(std::string_view text) {
  text = trimmed(text);
  if (text.size() > 64 || has_leading_zero(text)) return std::nullopt;  // 010 is octal in YAML: 8
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '_' && i > 0 && i + 1 < text.size()) continue;
    digits.push_back(text[i]);
  }
  if (digits.starts_with('+')) digits.erase(0, 1);
  double value = 0.0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc{} || end != digits.data() + digits.size() || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

void fail_wanted(const Setting& setting, std::string_view wanted) {
  fail(ErrorCode::kInvalidArgument, "{}: {} is not {}", setting.where(), setting.shown(), wanted);
}

bool as_switch(const Setting& setting) {
  const std::optional<bool> on =
      setting.kind == Setting::Kind::kScalar ? parse_switch(setting.text) : std::nullopt;
  if (!on) fail_wanted(setting, "true or false");
  return *on;
}

double as_number(const Setting& setting, const Range& range) {
  const std::optional<double> value =
      setting.kind == Setting::Kind::kScalar ? parse_decimal(setting.text) : std::nullopt;
  if (!value || !range.contains(*value)) fail_wanted(setting, "a number" + range.described());
  return *value;
}

int64_t as_integer(const Setting& setting, const Range& range) {
  const std::optional<double> value =
      setting.kind == Setting::Kind::kScalar ? parse_decimal(setting.text) : std::nullopt;
  if (!value || !range.contains(*value) || *value != std::floor(*value) ||
      std::fabs(*value) > kLargestInteger) {
    fail_wanted(setting, "an integer" + range.described());
  }
  return static_cast<int64_t>(*value);
}

std::string as_text(const Setting& setting) {
  if (setting.kind != Setting::Kind::kScalar) fail_wanted(setting, "a text");
  return setting.text;
}

std::vector<std::string> as_names(const Setting& setting) {
  const Setting value = opened(setting);
  std::vector<std::string> names;
  if (value.kind == Setting::Kind::kScalar) {
    std::string_view rest = value.text;
    for (size_t comma = 0; comma != std::string_view::npos;) {
      comma = rest.find(',');
      names.emplace_back(trimmed(rest.substr(0, comma)));
      rest.remove_prefix(comma == std::string_view::npos ? rest.size() : comma + 1);
    }
  } else if (value.kind == Setting::Kind::kList && !value.nested) {
    for (const std::string& item : value.items) names.emplace_back(trimmed(item));
  } else {
    fail_wanted(setting, "a list of names, or names separated by commas");
  }
  if (std::any_of(names.begin(), names.end(), [](const std::string& name) { return name.empty(); })) {
    fail(ErrorCode::kInvalidArgument, "{}: {} has an empty name in it", setting.where(), setting.shown());
  }
  return names;
}

std::vector<double> as_numbers(const Setting& setting, const Range& range) {
  std::vector<double> numbers;
  for (const std::string& name : as_names(setting)) {
    const std::optional<double> value = parse_decimal(name);
    if (!value || !range.contains(*value)) fail_wanted(setting, "a list of numbers" + range.described());
    numbers.push_back(*value);
  }
  return numbers;
}

std::vector<std::pair<std::string, double>> as_named_numbers(const Setting& setting) {
  const Setting value = opened(setting);
  if (value.kind == Setting::Kind::kNull) return {};
  if (value.kind != Setting::Kind::kMapping || value.nested) {
    fail_wanted(setting, "a mapping of names to numbers, like {min_lr: 1e-6}");
  }
  std::vector<std::pair<std::string, double>> numbers;
  for (const auto& [name, text] : value.members) {
    const std::optional<double> number = parse_decimal(text);
    if (!number) {
      fail(ErrorCode::kInvalidArgument, "{}: {} is '{}', which is not a number", setting.where(),
           printable(name), printable(text));
    }
    numbers.emplace_back(name, *number);
  }
  return numbers;
}

}  // namespace polylora
