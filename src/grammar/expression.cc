#include "grammar/expression.h"

#include <algorithm>
#include <array>
#include <utility>

#include "text/utf8.h"

namespace polylora::grammar {
namespace {

using Kind = Expression::Kind;

Expr make(Expression expression) {
  return std::make_shared<const Expression>(std::move(expression));
}

/// The UTF-8 of [first, last], which have the same length, as sequences of byte ranges.
void add_utf8(const std::string& first, const std::string& last, size_t at, std::vector<Expr> prefix,
              std::vector<Expr>& out) {
  const auto low = static_cast<uint8_t>(first[at]), high = static_cast<uint8_t>(last[at]);
  const auto with = [&](uint8_t from, uint8_t to) {
    std::vector<Expr> longer = prefix;
    longer.push_back(byte_range(from, to));
    return longer;
  };
  if (at + 1 == first.size()) {
    out.push_back(sequence(with(low, high)));
    return;
  }
  if (low == high) return add_utf8(first, last, at + 1, with(low, low), out);
  // The ends of the range may cut a lead byte's sequences short; what lies between has all of them.
  std::string all_low = first, all_high = last;
  std::fill(all_low.begin() + static_cast<std::ptrdiff_t>(at) + 1, all_low.end(), '\x80');
  std::fill(all_high.begin() + static_cast<std::ptrdiff_t>(at) + 1, all_high.end(), '\xBF');
  const int begin = low + (first.compare(at + 1, std::string::npos, all_low, at + 1) != 0);
  const int end = high - (last.compare(at + 1, std::string::npos, all_high, at + 1) != 0);
  if (begin > low) add_utf8(first, all_high, at + 1, with(low, low), out);
  if (begin <= end)
    add_utf8(all_low, all_high, at + 1, with(static_cast<uint8_t>(begin), static_cast<uint8_t>(end)), out);
  if (end < high) add_utf8(all_low, last, at + 1, with(high, high), out);
}

std::string utf8(char32_t code_point) {
  std::string out;
  append_utf8(out, code_point);
  return out;
}

}  // namespace

Expr literal(std::string_view text) {
  Expression expression;
  expression.text = text;
  return make(std::move(expression));
}

Expr byte_range(uint8_t first, uint8_t last) {
  Expression expression;
  expression.kind = Kind::kBytes;
  expression.first = first;
  expression.last = last;
  return make(std::move(expression));
}

Expr sequence(std::vector<Expr> parts) {
  if (parts.size() == 1) return std::move(parts.front());
  Expression expression;
  expression.kind = Kind::kSequence;
  expression.parts = std::move(parts);
  return make(std::move(expression));
}

Expr any_of(std::vector<Expr> parts) {
  if (parts.size() == 1) return std::move(parts.front());
  Expression expression;
  expression.kind = Kind::kAnyOf;
  expression.parts = std::move(parts);
  return make(std::move(expression));
}

Expr repeat(Expr part, size_t min, std::optional<size_t> max) {
  Expression expression;
  expression.kind = Kind::kRepeat;
  expression.parts.push_back(std::move(part));
  expression.min = min;
  expression.max = max;
  return make(std::move(expression));
}

Expr optional(Expr part) {
  return repeat(std::move(part), 0, 1);
}

Expr rule(size_t number) {
  Expression expression;
  expression.kind = Kind::kRule;
  expression.rule = number;
  return make(std::move(expression));
}

Expr character(const CodePointSet& set) {
  static constexpr std::array<char32_t, 4> kLastOfLength = {0x7F, 0x7FF, 0xFFFF, 0x10FFFF};
  std::vector<Expr> alternatives;
  for (auto [first, last] : set.ranges()) {
    for (const char32_t end : kLastOfLength) {
      if (first > end || first > last) continue;
      add_utf8(utf8(first), utf8(std::min(last, end)), 0, {}, alternatives);
      first = end + 1;
    }
  }
  return any_of(std::move(alternatives));
}

size_t Grammar::reserve() {
  rules.emplace_back();
  return rules.size() - 1;
}

size_t Grammar::add(Expr expression) {
  rules.push_back(std::move(expression));
  return rules.size() - 1;
}

Grammar choice_grammar(const std::vector<std::string>& texts) {
  std::vector<Expr> choices;
  for (const std::string& text : texts) choices.push_back(literal(text));
  Grammar grammar;
  grammar.add(any_of(std::move(choices)));
  return grammar;
}

}  // namespace polylora::grammar
