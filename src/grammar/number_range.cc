#include "grammar/number_range.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"

namespace polylora::grammar {
namespace {

constexpr int64_t kLargest = 9'999'999'999'999'999;  // kMaxDigits digits

Expr digit(char first, char last) {
  return byte_range(static_cast<uint8_t>(first), static_cast<uint8_t>(last));
}

Expr any_digits(size_t min, size_t max) {
  return repeat(digit('0', '9'), min, max);
}

/// Strings of low.size() digits from `low` to `high`.
Expr same_length(std::string_view low, std::string_view high) {
  if (low.empty()) return literal("");
  const bool all = low.find_first_not_of('0') == std::string_view::npos &&
                   high.find_first_not_of('9') == std::string_view::npos;
  if (all) return any_digits(low.size(), low.size());
  const char first = low.front(), last = high.front();
  const auto with = [](Expr head, Expr tail) { return sequence({std::move(head), std::move(tail)}); };
  if (first == last) return with(digit(first, first), same_length(low.substr(1), high.substr(1)));
  const std::string zeros(low.size() - 1, '0'), nines(low.size() - 1, '9');
  std::vector<Expr> ways;
  ways.push_back(with(digit(first, first), same_length(low.substr(1), nines)));
  if (last - first > 1)
    ways.push_back(
        with(digit(static_cast<char>(first + 1), static_cast<char>(last - 1)), same_length(zeros, nines)));
  ways.push_back(with(digit(last, last), same_length(zeros, high.substr(1))));
  return any_of(std::move(ways));
}

/// [low, high] without a sign; 0 <= low.
void add_naturals(int64_t low, int64_t high, std::vector<Expr>& ways) {
  for (size_t length = 1; length <= kMaxDigits && low <= high; ++length) {
    const auto end = static_cast<int64_t>(std::pow(10.0, static_cast<double>(length)) + 0.5) - 1;
    if (low > end) continue;
    ways.push_back(same_length(fmt::to_string(low), fmt::to_string(std::min(high, end))));
    low = end + 1;
  }
}

// --- decimals: a non-negative number as whole part and decimals without trailing zeros

struct Decimal {
  int64_t whole = 0;
  std::string decimals;
  bool exclusive = false;
};

Decimal decimal_of(double magnitude, bool exclusive) {
  std::string text = fmt::format("{:.{}f}", magnitude, kMaxDigits);
  // The shortest spelling that reads as the same number, when it has no exponent: 0.1, not
  // 0.1000000000000000055.
  if (const std::string shortest = fmt::format("{}", magnitude); shortest.find('e') == std::string::npos)
    text = shortest;
  const size_t point = std::min(text.find('.'), text.size());
  Decimal result{std::stoll(text.substr(0, point)), point < text.size() ? text.substr(point + 1) : "",
                 exclusive};
  result.decimals.resize(std::min(result.decimals.size(), kMaxDigits));
  while (!result.decimals.empty() && result.decimals.back() == '0') result.decimals.pop_back();
  return result;
}

/// What decimals are compared with, digit by digit; an absent bound holds for all that follow.
struct DecimalBound {
  std::string_view rest;
  bool exclusive = false;
};
using Bound = std::optional<DecimalBound>;

/// Whether the decimals may end here.
bool nothing_follows(const Bound& low, const Bound& high) {
  return (!low || (low->rest.empty() && !low->exclusive)) &&
         (!high || !high->rest.empty() || !high->exclusive);
}

Expr next_decimal(const Bound& low, const Bound& high, size_t room);

Expr decimals(const Bound& low, const Bound& high, size_t room) {
  if (!low && !high) return any_digits(0, room);
  std::vector<Expr> ways;
  if (nothing_follows(low, high)) ways.push_back(literal(""));
  if (room > 0) ways.push_back(next_decimal(low, high, room));
  return any_of(std::move(ways));
}

/// One decimal, and what may follow it. A bound holds on only while the decimals are the same as its own;
/// once used up it goes on as zeros.
Expr next_decimal(const Bound& low, const Bound& high, size_t room) {
  const char least = low && !low->rest.empty() ? low->rest.front() : '0';
  const char most = !high ? '9' : high->rest.empty() ? '0' : high->rest.front();
  std::vector<Expr> ways;
  for (char c = least; c <= most; ++c) {
    const auto after = [c](const Bound& bound, char edge) -> Bound {
      if (!bound || c != edge) return std::nullopt;
      return DecimalBound{bound->rest.substr(std::min<size_t>(1, bound->rest.size())), bound->exclusive};
    };
    ways.push_back(sequence({digit(c, c), decimals(after(low, least), after(high, most), room - 1)}));
  }
  return any_of(std::move(ways));
}

/// "", or a point and at least one decimal, within the bounds.
Expr fraction(std::optional<DecimalBound> low, std::optional<DecimalBound> high) {
  std::vector<Expr> ways;
  if (nothing_follows(low, high)) ways.push_back(literal(""));
  ways.push_back(sequence({literal("."), next_decimal(low, high, kMaxDigits)}));
  return any_of(std::move(ways));
}

/// Magnitudes between `low` and `high` (absent: none).
void add_magnitudes(const Decimal& low, const std::optional<Decimal>& high, std::string_view sign,
                    std::vector<Expr>& ways) {
  const int64_t last = high ? high->whole : kLargest;
  const auto add = [&](std::vector<Expr> wholes, Expr decimals) {
    if (!wholes.empty())
      ways.push_back(sequence({literal(sign), any_of(std::move(wholes)), std::move(decimals)}));
  };
  const auto at = [&](int64_t whole, bool is_low, bool is_high) {
    std::optional<DecimalBound> from, to;
    if (is_low) from = DecimalBound{low.decimals, low.exclusive};
    if (is_high) to = DecimalBound{high->decimals, high->exclusive};
    add({literal(fmt::to_string(whole))}, fraction(from, to));
  };
  if (low.whole > last) return;
  at(low.whole, true, high && high->whole == low.whole);
  if (low.whole == last) return;
  std::vector<Expr> between;
  add_naturals(low.whole + 1, high ? last - 1 : last, between);
  add(std::move(between), fraction({}, {}));
  if (high) at(last, false, true);
}

}  // namespace

Expr integer_range(std::optional<int64_t> min, std::optional<int64_t> max) {
  const int64_t low = std::max(min.value_or(-kLargest), -kLargest);
  const int64_t high = std::min(max.value_or(kLargest), kLargest);
  if (low > high) fail(ErrorCode::kInvalidArgument, "no integer is between {} and {}", low, high);
  std::vector<Expr> ways;
  add_naturals(std::max<int64_t>(low, 0), high, ways);
  std::vector<Expr> negative;
  add_naturals(std::max<int64_t>(-high, 1), -low, negative);
  if (!negative.empty()) ways.push_back(sequence({literal("-"), any_of(std::move(negative))}));
  return any_of(std::move(ways));
}

Expr number_range(std::optional<NumberBound> min, std::optional<NumberBound> max) {
  for (const auto& bound : {min, max})
    if (bound && !(std::abs(bound->value) <= static_cast<double>(kLargest)))
      fail(ErrorCode::kInvalidArgument, "numbers are bounded by at most {} digits, not by {}", kMaxDigits,
           bound->value);
  if (min && max && min->value > max->value)
    fail(ErrorCode::kInvalidArgument, "no number is between {} and {}", min->value, max->value);
  std::vector<Expr> ways;
  if (!max || max->value >= 0) {
    const bool from_zero = !min || min->value < 0;
    const Decimal low = from_zero ? Decimal{} : decimal_of(min->value, min->exclusive);
    std::optional<Decimal> high;
    if (max) high = decimal_of(max->value, max->exclusive);
    add_magnitudes(low, high, "", ways);
  }
  if (!min || min->value < 0) {
    const bool to_zero = !max || max->value >= 0;
    const Decimal low = to_zero ? Decimal{0, "", true} : decimal_of(-max->value, max->exclusive);
    std::optional<Decimal> high;
    if (min) high = decimal_of(-min->value, min->exclusive);
    add_magnitudes(low, high, "-", ways);
  }
  return any_of(std::move(ways));
}

}  // namespace polylora::grammar
