// Grammars as expressions over bytes: what regular expressions, JSON schemas and choices are turned into.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/code_points.h"

namespace polylora::grammar {

struct Expression;
/// Immutable and shared: an expression may stand in several places.
using Expr = std::shared_ptr<const Expression>;

struct Expression {
  enum class Kind : uint8_t {
    kBytes,     // one byte of [first, last]
    kLiteral,   // `text`; empty: nothing
    kSequence,  // `parts`, one after another
    kAnyOf,     // one of `parts`; none: matches nothing at all
    kRepeat,    // parts[0], `min` to `max` times
    kRule,      // what the grammar's rule `rule` says
  };
  Kind kind = Kind::kLiteral;
  uint8_t first = 0, last = 0;
  std::string text;
  std::vector<Expr> parts;
  size_t min = 0;
  std::optional<size_t> max;  // absent: no bound
  size_t rule = 0;
};

Expr literal(std::string_view text);
Expr byte_range(uint8_t first, uint8_t last);
Expr sequence(std::vector<Expr> parts);
Expr any_of(std::vector<Expr> parts);
Expr repeat(Expr part, size_t min, std::optional<size_t> max = std::nullopt);
Expr optional(Expr part);
Expr rule(size_t number);
/// One code point of `set`, as UTF-8.
Expr character(const CodePointSet& set);

/// Rule 0 is what a text has to match as a whole. Rules may refer to each other and to themselves.
struct Grammar {
  std::vector<Expr> rules;

  /// Room for one more rule, to be filled in later; so that it can refer to itself.
  size_t reserve();
  size_t add(Expr expression);
};

/// Exactly one of the texts.
Grammar choice_grammar(const std::vector<std::string>& texts);

}  // namespace polylora::grammar
