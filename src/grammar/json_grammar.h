// The parts that JSON is made of.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "grammar/expression.h"

namespace polylora::grammar {

/// Between JSON's tokens: nothing, a space, or a line break with up to 20 blanks. JSON would allow any number
/// of blanks, and small models then write nothing else.
Expr json_space();

/// A string of `min` to `max` characters, escapes included.
Expr json_string(size_t min = 0, std::optional<size_t> max = std::nullopt);
/// A string whose inside is `inside`.
Expr json_quoted(Expr inside);
/// A string without escapes that is none of `names`.
Expr json_string_except(const std::vector<std::string>& names);
/// At most 16 digits before and after the point, and 2 in the exponent.
Expr json_number();
Expr json_integer();
Expr json_boolean();

/// "[", the items with commas between them, "]".
Expr json_array(Expr items);
Expr json_object(Expr members);
/// `part`, `min` to `max` times, with commas between.
Expr json_list(Expr part, size_t min, std::optional<size_t> max);
/// A comma, with space after it, and `part`.
Expr json_after_comma(Expr part);
Expr json_member(Expr key, Expr value);

/// Adds rules for any JSON value and any object to `grammar`.
struct JsonRules {
  size_t value = 0, object = 0;
};
JsonRules add_json_rules(Grammar& grammar);

/// Any JSON object.
Grammar json_object_grammar();

}  // namespace polylora::grammar
