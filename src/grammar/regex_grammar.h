// Regular expressions -> grammars.
//
// The syntax is what Python, ECMA 262 and Rust's regex crate share: alternation, groups, classes, greedy and
// lazy quantifiers (which mean the same here), escapes, and ^ and $ around the pattern or one of its
// outermost alternatives. \d, \w and \s are ASCII's. What is not regular, or means something only to a
// search, is refused by name: back references, look-around, word boundaries, flags.
#pragma once

#include <string_view>

#include "grammar/text_form.h"

namespace polylora::grammar {

enum class RegexMatch : uint8_t {
  kWhole,     // the text as a whole; ^ and $ change nothing
  kAnywhere,  // JSON schema's `pattern`: some part of the text, unless ^ and $ say otherwise
};

/// Throws kInvalidArgument, saying at which character, for a pattern that is not understood. `pattern` may be
/// any bytes.
Expr regex_expression(std::string_view pattern, RegexMatch match, TextForm form);

}  // namespace polylora::grammar
