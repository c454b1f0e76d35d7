// Numbers within bounds, as JSON spells them: no exponents, at most kMaxDigits digits before and after the
// point.
#pragma once

#include <cstdint>
#include <optional>

#include "grammar/expression.h"

namespace polylora::grammar {

inline constexpr size_t kMaxDigits = 16;

/// Integers in [min, max]; an absent bound is as far away as kMaxDigits digits reach.
Expr integer_range(std::optional<int64_t> min, std::optional<int64_t> max);

struct NumberBound {
  double value = 0;
  bool exclusive = false;
};

/// Numbers within bounds. The bounds are read with at most kMaxDigits decimals.
Expr number_range(std::optional<NumberBound> min, std::optional<NumberBound> max);

}  // namespace polylora::grammar
